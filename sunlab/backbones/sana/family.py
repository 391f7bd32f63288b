"""diffusers' SanaTransformer2DModel as a `Backbone`, and how the family's files are recognised."""

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
from sunlab.backbones.sana.autoencoder import DCAE
from sunlab.backbones.sana.folder import KINDS, index_mismatch, read_folder
from sunlab.backbones.sana.layers import SanaLayers
from sunlab.backbones.sana.shapes import SANA
from sunlab.backbones.sana.text import LENGTH, GemmaText
from sunlab.backbones.schedule import read_path
from sunlab.backbones.sd.tokenizer import ASSETS
from sunlab.backbones.state import at_time, carrying
from sunlab.diffusion.path import ProbabilityPath
from sunlab.errors import ConfigError
from sunlab.types import Conditioning, PredictionType

CONFIGURATIONS = {name: ASSETS / "families" / name for name in ("sana_600m", "sana_1600m")}


@BACKBONES.register("sana")
class Sana(TransformerBackbone):
    """SANA 0.6B, 1.6B and 1.5: linear self-attention, cross-attention to Gemma-2's tokens, rectified flow.

    Args:
        transformer: a SanaTransformer2DModel.
        path: the probability path that it was trained on.
        prediction_type: what it predicts.
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third more compute.
        compile: the mode of torch.compile, compiled in the first pass with each shape and state of the adapter; it needs a
            C++ compiler on CPUs. `none`: not compiled.
    """

    pipeline = "SanaPipeline"

    def __init__(
        self,
        transformer: Any,
        path: ProbabilityPath,
        prediction_type: PredictionType,
        *,
        gradient_checkpointing: bool = False,
        compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = "none",
    ):
        super().__init__()
        self.transformer: Any = transformer
        self.path, self.prediction_type = path, prediction_type
        described: Any = transformer.config
        self.sample_shape = (described.in_channels, described.sample_size, described.sample_size)
        self.configure(gradient_checkpointing=gradient_checkpointing, compile=compile)

    def network_time(self, t: Tensor) -> Tensor:
        """1000 t, times the configuration's `timestep_scale`."""
        return self.path.step(t).float() * self.transformer.config.timestep_scale

    @property
    def attached(self) -> SanaLayers:
        return SanaLayers(self.transformer)

    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        dtype, time = self.transformer.dtype, self.network_time(t)
        with carrying(at_time(state, time)):
            output = self.transformer(
                x.to(dtype),
                encoder_hidden_states=conditioning.tokens.to(dtype),
                timestep=time,
                encoder_attention_mask=conditioning.mask,
                return_dict=False,
            )[0]
        return output.to(x.dtype)

    def blank(self, rows: int) -> Conditioning:
        tokens = torch.zeros(rows, LENGTH, self.transformer.config.caption_channels, dtype=self.transformer.dtype)
        return Conditioning(tokens, mask=torch.ones(rows, LENGTH, dtype=torch.bool))

    @classmethod
    def mismatch(cls, files: Files) -> str | None:
        return index_mismatch(files)

    @classmethod
    def configurations(cls) -> Mapping[str, Path]:
        return CONFIGURATIONS

    @classmethod
    def known_layers(cls) -> Mapping[str, Layers]:
        return SANA

    @classmethod
    def adaptable(cls, network: Any) -> SanaLayers | None:
        return SanaLayers(network) if type(network).__name__ == KINDS["transformer"] else None

    @classmethod
    def write_tiny(cls, folder: Path) -> None:
        from sunlab.backbones.sana.tiny import write_tiny

        write_tiny(folder)

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
        backbone = cls(parts.transformer, *read_path(scheduler), **options)
        backbone.index, backbone.scheduler = parts.index, scheduler
        described, channels = parts.transformer.config, backbone.sample_shape[0]
        if not channels == described.out_channels == parts.vae.config.latent_channels:
            raise ConfigError(
                f"{files.place}: its transformer takes {channels} channels and returns {described.out_channels}, its "
                f"autoencoder makes {parts.vae.config.latent_channels}; a text-to-image base is needed"
            )
        text = GemmaText(parts.tokenizer, parts.text_encoder)
        base = BaseModel(backbone, DCAE(parts.vae), text, files.configurations or files.place, parts.weights, said)
        for part in base.parts:  # what started at random is in float32
            part.to(dtype)
        return base
