"""Backbones: wrappers of pretrained networks behind one contract, one folder for each family. Open `base.py` first."""

from sunlab.backbones.attention import Adaptable, AttentionCall, Extension, TextAttention, TokenContext
from sunlab.backbones.autoencoder import Autoencoder
from sunlab.backbones.base import BACKBONES, Backbone, BaseModel
from sunlab.backbones.files import Files
from sunlab.backbones.text import TextEncoder

__all__ = [
    "BACKBONES", "Adaptable", "AttentionCall", "Autoencoder", "Backbone", "BaseModel", "Extension", "Files", "TextAttention",
    "TextEncoder", "TokenContext",
]  # fmt: skip
