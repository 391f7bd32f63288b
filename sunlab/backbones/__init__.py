"""Backbones: the one boundary where foreign networks are wrapped, a folder a family. Start with `base.py`."""

from sunlab.backbones.attention import AttentionCall, Extension, TextAttention, TokenContext
from sunlab.backbones.base import BACKBONES, Backbone

__all__ = ["BACKBONES", "AttentionCall", "Backbone", "Extension", "TextAttention", "TokenContext"]
