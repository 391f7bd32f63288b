"""diffusers' WanTransformer3DModel as a `Backbone`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from sunlab.backbones.attention import Layers
from sunlab.backbones.autoencoder import Autoencoder
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.files import Files
from sunlab.backbones.folder import Kinds, Parts
from sunlab.backbones.network import TransformerBackbone
from sunlab.backbones.schedule import read_path
from sunlab.backbones.sd.tokenizer import ASSETS
from sunlab.backbones.state import at_time, carrying
from sunlab.backbones.text import TextEncoder
from sunlab.backbones.wan.autoencoder import WanVAE
from sunlab.backbones.wan.layers import WAN, WanLayers
from sunlab.backbones.wan.text import LENGTH, WanText
from sunlab.diffusion.path import ProbabilityPath
from sunlab.errors import ConfigError
from sunlab.types import Conditioning, PredictionType

CONFIGURATIONS = {"wan_1300m": ASSETS / "families" / "wan_1300m"}


@BACKBONES.register("wan")
class Wan(TransformerBackbone):
    """Wan 2.1, text to video: cross-attention to UMT5's tokens, rectified flow, latents (C, F, H, W).

    Args:
        transformer: a WanTransformer3DModel.
        path: the probability path that it was trained on.
        prediction_type: what it predicts.
        compression: frames and pixels that a latent position covers.
        frames: of a video; 1 draws pictures.
        height, width: of a frame, in pixels.
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third more compute.
        compile: the mode of torch.compile, compiled in the first pass with each shape and state of the adapter; it needs a
            C++ compiler on CPUs. `none`: not compiled.
    """

    pipeline = "WanPipeline"
    kinds: ClassVar[Kinds] = {
        "transformer": ("WanTransformer3DModel",),
        "vae": ("AutoencoderKLWan",),
        "text_encoder": ("UMT5EncoderModel",),
        "transformer_2": (None,),
    }
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
        compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = "none",
    ):
        super().__init__()
        time, space = compression
        _, patch_height, patch_width = transformer.config.patch_size
        if frames < 1 or (frames - 1) % time:
            raise ConfigError(f"model.backbone.frames: expected 1 + a multiple of {time}, got {frames}")
        for name, size, unit in (("height", height, space * patch_height), ("width", width, space * patch_width)):
            if size < 1 or size % unit:
                raise ConfigError(f"model.backbone.{name}: expected a multiple of {unit} pixels, got {size}")
        self.transformer: Any = transformer
        self.path, self.prediction_type = path, prediction_type
        latent_frames = (frames - 1) // time + 1
        self.sample_shape = (transformer.config.in_channels, latent_frames, height // space, width // space)
        self.configure(gradient_checkpointing=gradient_checkpointing, compile=compile)

    @property
    def attached(self) -> WanLayers:
        return WanLayers(self.transformer)

    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        if conditioning.mask is not None:
            raise ConfigError("Wan attends to every token; it takes no mask of the positive prompt")
        dtype, time = self.transformer.dtype, self.network_time(t)
        with carrying(at_time(state, time, conditioning.tokens)):
            output = self.transformer(x.to(dtype), time, conditioning.tokens.to(dtype), return_dict=False)[0]
        return output.to(x.dtype)

    def blank(self, rows: int) -> Conditioning:
        return Conditioning(torch.zeros(rows, LENGTH, self.transformer.config.text_dim, dtype=self.transformer.dtype))

    @classmethod
    def mismatch(cls, files: Files) -> str | None:
        if reason := super().mismatch(files):
            return reason
        return "Wan 2.2 with a time for each token (expand_timesteps)" if files.index.get("expand_timesteps") else None

    @classmethod
    def configurations(cls) -> Mapping[str, Path]:
        return CONFIGURATIONS

    @classmethod
    def known_layers(cls) -> Mapping[str, Layers]:
        return WAN

    @classmethod
    def adaptable(cls, network: Any) -> WanLayers | None:
        return WanLayers(network) if type(network).__name__ in cls.kinds["transformer"] else None

    @classmethod
    def write_tiny(cls, folder: Path) -> None:
        from sunlab.backbones.wan.tiny import write_tiny

        write_tiny(folder)

    @classmethod
    def wrap(
        cls, parts: Parts, scheduler: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[Self, TextEncoder, Autoencoder]:
        described, (path, kind) = parts.vae.config, read_path(scheduler)
        compression = described.scale_factor_temporal, described.scale_factor_spatial
        backbone, (tokenizer, model) = cls(parts.network, path, kind, compression, **options), parts.texts[0]
        width = backbone.sample_shape[-1] * described.scale_factor_spatial
        return backbone, WanText(tokenizer, model, length=LENGTH), WanVAE(parts.vae, width)
