"""diffusers' PixArtTransformer2DModel as a `Backbone` (arXiv 2310.00426, 2403.04692)."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from sunlab.backbones.attention import Layers
from sunlab.backbones.base import BACKBONES, BaseModel
from sunlab.backbones.files import Files
from sunlab.backbones.network import TransformerBackbone
from sunlab.backbones.pixart.folder import index_mismatch, read_folder
from sunlab.backbones.pixart.layers import PixArtLayers
from sunlab.backbones.pixart.shapes import PIXART
from sunlab.backbones.pixart.text import PixArtText
from sunlab.backbones.schedule import read_path
from sunlab.backbones.sd.autoencoder import VAE
from sunlab.backbones.sd.layers import passing
from sunlab.backbones.sd.tokenizer import ASSETS
from sunlab.backbones.state import at_time, carrying
from sunlab.diffusion.path import ProbabilityPath
from sunlab.errors import ConfigError
from sunlab.types import Conditioning, PredictionType

CONFIGURATIONS = {name: ASSETS / "families" / name for name in ("pixart_alpha", "pixart_sigma")}


@BACKBONES.register("pixart")
class PixArt(TransformerBackbone):
    """PixArt-alpha, PixArt-Sigma, and transformers of their class: cross-attention to one text encoder with a mask.

    Args:
        transformer: a PixArtTransformer2DModel.
        path: the probability path that it was trained on.
        prediction_type: what it predicts. A learned variance, the second half of the output channels, is dropped.
        length: tokens of a padded prompt.
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third more compute.
        attention: `sdpa`, torch's fused kernels; `eager`, matrix products and softmax.
        compile: the mode of torch.compile; `none`: not compiled.
    """

    pipeline = "PixArtSigmaPipeline"

    def __init__(
        self,
        transformer: Any,
        path: ProbabilityPath,
        prediction_type: PredictionType,
        length: int,
        *,
        gradient_checkpointing: bool = False,
        attention: Literal["sdpa", "eager"] = "sdpa",
        compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = "none",
    ):
        super().__init__()
        self.transformer: Any = transformer
        self.path, self.prediction_type, self.length = path, prediction_type, length
        described: Any = transformer.config
        self.sample_shape = (described.in_channels, described.sample_size, described.sample_size)
        self.configure(gradient_checkpointing=gradient_checkpointing, compile=compile, attention=attention)

    @property
    def attached(self) -> PixArtLayers:
        return PixArtLayers(self.transformer)

    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        dtype, time = self.transformer.dtype, self.network_time(t)
        state = at_time(state, time)
        with carrying(state):
            output = self.transformer(
                x.to(dtype),
                conditioning.tokens.to(dtype),
                time,
                {"resolution": None, "aspect_ratio": None, **conditioning.added},
                encoder_attention_mask=conditioning.mask,
                return_dict=False,
                **passing(self.transformer, state),
            )[0]
        return output[:, : x.shape[1]].to(x.dtype)

    def blank(self, rows: int) -> Conditioning:
        described = self.transformer.config
        width = described.caption_channels or described.cross_attention_dim
        tokens = torch.zeros(rows, self.length, width, dtype=self.transformer.dtype)
        added = {"resolution": torch.zeros(rows, 2), "aspect_ratio": torch.zeros(rows, 1)}
        return Conditioning(
            tokens,
            added=added if self.transformer.use_additional_conditions else {},
            mask=torch.ones(rows, self.length, dtype=torch.bool),
        )

    @classmethod
    def mismatch(cls, files: Files) -> str | None:
        return index_mismatch(files)

    @classmethod
    def configurations(cls) -> Mapping[str, Path]:
        return CONFIGURATIONS

    @classmethod
    def known_layers(cls) -> Mapping[str, Layers]:
        return PIXART

    @classmethod
    def adaptable(cls, network: Any) -> PixArtLayers | None:
        return PixArtLayers(network) if type(network).__name__ == "PixArtTransformer2DModel" else None

    @classmethod
    def load(
        cls,
        files: Files,
        *,
        options: Mapping[str, Any] = MappingProxyType({}),
        fresh: Collection[str] = (),
        dtype: torch.dtype = torch.float32,
        said: Mapping[str, Any] = MappingProxyType({}),
        weights: bool = True,
    ) -> BaseModel:
        with torch.device("cpu" if weights else "meta"):
            parts = read_folder(files, fresh=fresh, dtype=dtype, weights=weights)
        scheduler = {**parts.scheduler, **said}
        path, kind = read_path(scheduler)
        backbone = cls(parts.transformer, path, kind, parts.length, **options)
        backbone.index, backbone.scheduler = parts.index, scheduler
        autoencoder = VAE(parts.vae)
        channels, height, width = backbone.sample_shape
        if channels != parts.vae.config.latent_channels:
            raise ConfigError(
                f"{files.place}: its transformer takes {channels} channels, its autoencoder makes "
                f"{parts.vae.config.latent_channels}; a text-to-image base is needed"
            )
        size = (height * autoencoder.factor, width * autoencoder.factor)
        text = PixArtText(
            parts.tokenizer, parts.text_encoder, length=parts.length,
            size=size if parts.transformer.use_additional_conditions else None,
        )  # fmt: skip
        base = BaseModel(backbone, autoencoder, text, parts.folder, parts.weights, said)
        if not weights:
            for part in base.parts:
                part.to(dtype)
        return base
