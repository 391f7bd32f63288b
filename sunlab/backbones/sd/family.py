"""Stable Diffusion 1.x and 2.x: how its files are recognised, and its text encoder."""

from pathlib import Path
from typing import ClassVar

from sunlab.backbones.base import BACKBONES
from sunlab.backbones.files import Files
from sunlab.backbones.folder import Kinds, Parts
from sunlab.backbones.network import FAMILIES
from sunlab.backbones.sd.original_file import stated_prediction, text_width, unet_mismatch
from sunlab.backbones.sd.shapes import SD
from sunlab.backbones.sd.text import CLIPText
from sunlab.backbones.sd.unet import UNET, DiffusersUNet
from sunlab.backbones.text import TextEncoder
from sunlab.errors import ConfigError


@BACKBONES.register("sd")
class StableDiffusion(DiffusersUNet):
    """Stable Diffusion 1.x and 2.x: one CLIP text encoder.

    Args: see `DiffusersUNet`.
    """

    pipeline = "StableDiffusionPipeline"

    kinds: ClassVar[Kinds] = {**UNET, "text_encoder": ("CLIPTextModel",), "text_encoder_2": (None,)}
    packaged = ("sd15", "sd21", "sd21_base")
    shapes = SD

    @classmethod
    def file_mismatch(cls, files: Files) -> str | None:
        width = text_width(files, 1)
        other = f"text width {width or 'unknown'} of the second block is neither 768 nor 1024"
        return unet_mismatch(files) or (None if width in (768, 1024) else other)

    @classmethod
    def configuration_of(cls, files: Files) -> Path:
        if text_width(files, 1) == 768:
            return FAMILIES / "sd15"
        said = stated_prediction(files)
        if said is None:
            raise ConfigError(
                f"{files.place}: SD 2.x, and the file does not say what it predicts: set model.family=sd21 (768 pixels, v "
                "prediction) or model.family=sd21_base (512 pixels, epsilon prediction)"
            )
        return FAMILIES / ("sd21" if said == "v_prediction" else "sd21_base")

    @classmethod
    def text_encoder(cls, parts: Parts, size: tuple[int, int]) -> TextEncoder:
        return CLIPText(*parts.texts[0])
