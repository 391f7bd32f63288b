"""diffusers' SanaTransformer2DModel as a `Backbone`, and how the family's files are recognised."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sunlab.backbones.autoencoder import Autoencoder
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.files import Files
from sunlab.backbones.folder import Kinds, Parts
from sunlab.backbones.network import TransformerBackbone
from sunlab.backbones.sana import tiny
from sunlab.backbones.sana.autoencoder import DCAE
from sunlab.backbones.sana.layers import SanaLayers
from sunlab.backbones.sana.shapes import SANA
from sunlab.backbones.sana.text import LENGTH, GemmaText
from sunlab.backbones.schedule import read_path
from sunlab.backbones.state import at_time
from sunlab.backbones.text import TextEncoder
from sunlab.types import Conditioning


@BACKBONES.register("sana")
class Sana(TransformerBackbone):
    """SANA 0.6B, 1.6B and 1.5: linear self-attention, cross-attention to Gemma-2's tokens, rectified flow.

    Args: see `TransformerBackbone`.
    """

    pipeline = "SanaPipeline"
    kinds: ClassVar[Kinds] = {
        "transformer": ("SanaTransformer2DModel",),
        "vae": ("AutoencoderDC",),
        "text_encoder": ("Gemma2Model",),
    }
    view = SanaLayers
    packaged = ("sana_600m", "sana_1600m")
    shapes = SANA
    write_tiny = staticmethod(tiny.write_tiny)

    def network_time(self, t: Tensor) -> Tensor:
        """1000 t, times the configuration's `timestep_scale`."""
        return self.path.step(t).float() * self.transformer.config.timestep_scale

    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        dtype, time = self.transformer.dtype, self.network_time(t)
        output = self.attached.run(
            at_time(state, time, conditioning.tokens),
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
    def wrap(
        cls, parts: Parts, scheduler: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[Self, TextEncoder, Autoencoder]:
        return cls(parts.network, *read_path(scheduler), **options), GemmaText(*parts.texts[0]), DCAE(parts.vae)
