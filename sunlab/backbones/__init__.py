"""Backbones: the one boundary where foreign networks are wrapped, a folder a family. Start with `base.py`."""

from sunlab.backbones.attention import Adaptable, AttentionCall, Extension, TextAttention, TokenContext
from sunlab.backbones.autoencoder import Autoencoder
from sunlab.backbones.base import BACKBONES, Backbone, BaseModel
from sunlab.backbones.files import Files
from sunlab.backbones.text import TextEncoder

__all__ = [
    "BACKBONES", "Adaptable", "AttentionCall", "Autoencoder", "Backbone", "BaseModel", "Extension", "Files", "TextAttention",
    "TextEncoder", "TokenContext",
]  # fmt: skip
