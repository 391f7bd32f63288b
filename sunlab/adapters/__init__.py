"""Adapters: what is trained beside a frozen backbone, and can be switched off."""

from sunlab.adapters.base import ADAPTERS, Adapter

__all__ = ["ADAPTERS", "Adapter"]
