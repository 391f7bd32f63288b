"""diffusers' SanaTransformer2DModel as a `Backbone`, and how the family's files are recognised."""

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
from sunlab.backbones.sana.autoencoder import DCAE
from sunlab.backbones.sana.layers import SanaLayers
from sunlab.backbones.sana.shapes import SANA
from sunlab.backbones.sana.text import LENGTH, GemmaText
from sunlab.backbones.schedule import read_path
from sunlab.backbones.sd.tokenizer import ASSETS
from sunlab.backbones.state import at_time, carrying
from sunlab.backbones.text import TextEncoder
from sunlab.diffusion.path import ProbabilityPath
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
    kinds: ClassVar[Kinds] = {
        "transformer": ("SanaTransformer2DModel",),
        "vae": ("AutoencoderDC",),
        "text_encoder": ("Gemma2Model",),
    }

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
        with carrying(at_time(state, time, conditioning.tokens)):
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
        if reason := super().mismatch(files):
            return reason
        if "Sprint" in str(files.index.get("_class_name")):
            return (
                "SANA-Sprint is distilled already: its guidance is an input of the network and it takes no negative prompt"
            )
        return None

    @classmethod
    def configurations(cls) -> Mapping[str, Path]:
        return CONFIGURATIONS

    @classmethod
    def known_layers(cls) -> Mapping[str, Layers]:
        return SANA

    @classmethod
    def adaptable(cls, network: Any) -> SanaLayers | None:
        return SanaLayers(network) if type(network).__name__ in cls.kinds["transformer"] else None

    @classmethod
    def write_tiny(cls, folder: Path) -> None:
        from sunlab.backbones.sana.tiny import write_tiny

        write_tiny(folder)

    @classmethod
    def wrap(
        cls, parts: Parts, scheduler: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[Self, TextEncoder, Autoencoder]:
        return cls(parts.network, *read_path(scheduler), **options), GemmaText(*parts.texts[0]), DCAE(parts.vae)
