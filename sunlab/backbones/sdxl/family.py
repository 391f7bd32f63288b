"""Stable Diffusion XL: how its files are recognised, its text encoders, and the U-Net's inputs other than the tokens."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch

from sunlab.backbones.base import BACKBONES
from sunlab.backbones.files import Files
from sunlab.backbones.folder import Kinds, Parts
from sunlab.backbones.network import FAMILIES
from sunlab.backbones.sd.original_file import text_width, unet_mismatch
from sunlab.backbones.sd.shapes import SDXL
from sunlab.backbones.sd.unet import UNET, DiffusersUNet
from sunlab.backbones.sdxl.text import CLIPTextPair
from sunlab.backbones.text import TextEncoder
from sunlab.types import Conditioning

SECOND_ENCODER = "conditioner.embedders.1.model.token_embedding.weight"


@BACKBONES.register("sdxl")
class StableDiffusionXL(DiffusersUNet):
    """Stable Diffusion XL: two text encoders, a pooled embedding, and sizes and crops as `time_ids`.

    Args: see `DiffusersUNet`.
    """

    pipeline = "StableDiffusionXLPipeline"

    kinds: ClassVar[Kinds] = {
        **UNET, "text_encoder": ("CLIPTextModel",), "text_encoder_2": ("CLIPTextModelWithProjection",)
    }  # fmt: skip
    packaged = ("sdxl",)
    shapes = SDXL

    @classmethod
    def file_mismatch(cls, files: Files) -> str | None:
        if reason := unet_mismatch(files):
            return reason
        if (width := text_width(files, 4)) != 2048:
            return f"text width {width or 'unknown'} of the third block is not 2048"
        second = "it lacks the second text encoder; a file of the whole model is needed"
        return None if SECOND_ENCODER in files.shapes else second

    @classmethod
    def configuration_of(cls, files: Files) -> Path:
        return FAMILIES / "sdxl"

    @classmethod
    def text_encoder(cls, parts: Parts, size: tuple[int, int]) -> TextEncoder:
        tokenizers, models = zip(*parts.texts, strict=True)
        zero_empty = bool(parts.index.get("force_zeros_for_empty_prompt", True))
        return CLIPTextPair(tokenizers, models, size=size, zero_empty=zero_empty)

    def blank(self, rows: int) -> Conditioning:
        described = self.unet.config
        width = described.projection_class_embeddings_input_dim - 6 * described.addition_time_embed_dim
        pooled = torch.zeros(rows, width, dtype=self.unet.dtype)
        return replace(super().blank(rows), pooled=pooled, added={"time_ids": torch.zeros(rows, 6)})
