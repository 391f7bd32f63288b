"""Adapters: parameters trained beside a frozen backbone, which act in the passes that are given their state. Open
`base.py`, the contract, first; `sun.py` is the paper's adapter."""

from sunlab.adapters.base import ADAPTERS, Adapter

__all__ = ["ADAPTERS", "Adapter"]
