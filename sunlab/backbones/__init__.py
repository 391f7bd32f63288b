"""Backbones: the one boundary where foreign U-Nets are wrapped."""

from sunlab.backbones.base import BACKBONES, Backbone

__all__ = ["BACKBONES", "Backbone"]
