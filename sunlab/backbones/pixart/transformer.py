"""diffusers' PixArtTransformer2DModel as a `Backbone` (arXiv 2310.00426, 2403.04692)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sunlab.backbones.autoencoder import Autoencoder
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.files import read_json
from sunlab.backbones.folder import Kinds, Parts
from sunlab.backbones.network import Compile, Kernels, TransformerBackbone
from sunlab.backbones.pixart.layers import PixArtLayers
from sunlab.backbones.pixart.shapes import PIXART
from sunlab.backbones.pixart.text import PixArtText
from sunlab.backbones.schedule import read_path
from sunlab.backbones.sd.autoencoder import VAE
from sunlab.backbones.state import at_time
from sunlab.backbones.text import TextEncoder
from sunlab.diffusion.path import ProbabilityPath
from sunlab.types import Conditioning, PredictionType

LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""Tokens of a padded prompt, by the pipeline that a base is of (`max_sequence_length`)."""


@BACKBONES.register("pixart")
class PixArt(TransformerBackbone):
    """PixArt-alpha, PixArt-Sigma, and transformers of their class: cross-attention to one text encoder with a mask.

    Args:
        transformer, path: see `TransformerBackbone`.
        prediction_type: what it predicts. A learned variance, the second half of the output channels, is dropped.
        length: tokens of a padded prompt.
        attention, gradient_checkpointing, compile: see `NetworkBackbone`.
    """

    pipeline = "PixArtSigmaPipeline"
    kinds: ClassVar[Kinds] = {
        "transformer": ("PixArtTransformer2DModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("T5EncoderModel", "CLIPTextModel"),
    }
    view = PixArtLayers
    packaged = ("pixart_alpha", "pixart_sigma")
    shapes = PIXART

    def __init__(
        self,
        transformer: Any,
        path: ProbabilityPath,
        prediction_type: PredictionType,
        length: int,
        *,
        gradient_checkpointing: bool = False,
        attention: Kernels = "sdpa",
        compile: Compile = "none",
    ):
        options: Any = {"gradient_checkpointing": gradient_checkpointing, "compile": compile}
        super().__init__(transformer, path, prediction_type, **options)
        self.configure(attention=attention)
        self.length = length

    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        dtype, time = self.transformer.dtype, self.network_time(t)
        output = self.attached.run(
            at_time(state, time, conditioning.tokens),
            x.to(dtype),
            conditioning.tokens.to(dtype),
            time,
            {"resolution": None, "aspect_ratio": None, **conditioning.added},
            encoder_attention_mask=conditioning.mask,
            return_dict=False,
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
    def wrap(
        cls, parts: Parts, scheduler: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[Self, TextEncoder, Autoencoder]:
        path, kind = read_path(scheduler)
        backbone = cls(parts.network, path, kind, prompt_length(parts), **options)
        autoencoder, (tokenizer, model) = VAE(parts.vae), parts.texts[0]
        size = (backbone.sample_shape[1] * autoencoder.factor, backbone.sample_shape[2] * autoencoder.factor)
        sized = size if parts.network.use_additional_conditions else None
        return backbone, PixArtText(tokenizer, model, length=backbone.length, size=sized), autoencoder


def prompt_length(parts: Parts) -> int:
    """Tokens of a padded prompt: those of the pipeline, or fewer if the tokenizer takes fewer."""
    settings = parts.folder / "tokenizer" / "tokenizer_config.json"
    most = read_json(settings).get("model_max_length") if settings.is_file() else None
    usual = LENGTHS.get(parts.index.get("_class_name", ""), 300)
    return usual if most is None else min(int(most), usual)
