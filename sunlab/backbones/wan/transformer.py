"""diffusers' WanTransformer3DModel as a `Backbone`."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sunlab.backbones.autoencoder import Autoencoder
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.files import Files
from sunlab.backbones.folder import Kinds, Parts
from sunlab.backbones.network import Compile, TransformerBackbone
from sunlab.backbones.schedule import read_path
from sunlab.backbones.state import at_time
from sunlab.backbones.text import TextEncoder
from sunlab.backbones.wan import tiny
from sunlab.backbones.wan.autoencoder import WanVAE
from sunlab.backbones.wan.layers import WAN, WanLayers
from sunlab.backbones.wan.text import LENGTH, WanText
from sunlab.diffusion.path import ProbabilityPath
from sunlab.errors import ConfigError
from sunlab.types import Conditioning, PredictionType


@BACKBONES.register("wan")
class Wan(TransformerBackbone):
    """Wan 2.1, text to video: cross-attention to UMT5's tokens, rectified flow, latents (C, F, H, W).

    Args:
        transformer, path, prediction_type: see `TransformerBackbone`.
        compression: frames and pixels that a latent position covers.
        frames: of a video; 1 draws pictures.
        height, width: of a frame, in pixels.
        gradient_checkpointing, compile: see `TransformerBackbone`.
    """

    pipeline = "WanPipeline"
    kinds: ClassVar[Kinds] = {
        "transformer": ("WanTransformer3DModel",),
        "vae": ("AutoencoderKLWan",),
        "text_encoder": ("UMT5EncoderModel",),
        "transformer_2": (None,),
    }
    view = WanLayers
    packaged = ("wan_1300m",)
    shapes = WAN
    write_tiny = staticmethod(tiny.write_tiny)
    masked: ClassVar[bool] = False
    blocks: ClassVar[str] = "blocks"

    def __init__(
        self,
        transformer: Any,
        path: ProbabilityPath,
        prediction_type: PredictionType,
        compression: tuple[int, int],
        *,
        frames: int = 81,
        height: int = 480,
        width: int = 832,
        gradient_checkpointing: bool = False,
        compile: Compile = "none",
    ):
        time, space = compression
        _, patch_height, patch_width = transformer.config.patch_size
        if frames < 1 or (frames - 1) % time:
            raise ConfigError(f"model.backbone.frames: expected 1 + a multiple of {time}, got {frames}")
        for name, size, unit in (("height", height, space * patch_height), ("width", width, space * patch_width)):
            if size < 1 or size % unit:
                raise ConfigError(f"model.backbone.{name}: expected a multiple of {unit} pixels, got {size}")
        options: Any = {"gradient_checkpointing": gradient_checkpointing, "compile": compile}
        super().__init__(transformer, path, prediction_type, **options)
        self.sample_shape = (transformer.config.in_channels, (frames - 1) // time + 1, height // space, width // space)

    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        if conditioning.mask is not None:
            raise ConfigError("Wan attends to every token; it takes no mask of the positive prompt")
        dtype, time = self.transformer.dtype, self.network_time(t)
        tokens, state = conditioning.tokens.to(dtype), at_time(state, time, conditioning.tokens)
        return self.attached.run(state, x.to(dtype), time, tokens, return_dict=False)[0].to(x.dtype)

    def blank(self, rows: int) -> Conditioning:
        return Conditioning(torch.zeros(rows, LENGTH, self.transformer.config.text_dim, dtype=self.transformer.dtype))

    @classmethod
    def mismatch(cls, files: Files) -> str | None:
        if reason := super().mismatch(files):
            return reason
        return "Wan 2.2 with a time for each token (expand_timesteps)" if files.index.get("expand_timesteps") else None

    @classmethod
    def wrap(
        cls, parts: Parts, scheduler: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[Self, TextEncoder, Autoencoder]:
        described, (path, kind) = parts.vae.config, read_path(scheduler)
        compression = described.scale_factor_temporal, described.scale_factor_spatial
        backbone, (tokenizer, model) = cls(parts.network, path, kind, compression, **options), parts.texts[0]
        width = backbone.sample_shape[-1] * described.scale_factor_spatial
        return backbone, WanText(tokenizer, model, length=LENGTH), WanVAE(parts.vae, width)
