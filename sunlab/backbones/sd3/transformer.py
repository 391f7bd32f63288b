"""diffusers' SD3Transformer2DModel as a `Backbone`."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sunlab.backbones.autoencoder import Autoencoder
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.folder import Kinds, Parts
from sunlab.backbones.network import Compile, TransformerBackbone
from sunlab.backbones.sd.autoencoder import VAE
from sunlab.backbones.sd.tokenizer import LENGTH
from sunlab.backbones.sd3 import tiny
from sunlab.backbones.sd3.layers import SD3Layers
from sunlab.backbones.sd3.schedule import read_flow
from sunlab.backbones.sd3.shapes import SD3
from sunlab.backbones.sd3.text import SD3Text
from sunlab.backbones.state import at_time
from sunlab.backbones.text import TextEncoder
from sunlab.diffusion.path import RectifiedFlow
from sunlab.errors import ConfigError
from sunlab.types import Conditioning


@BACKBONES.register("sd3")
class StableDiffusion3(TransformerBackbone):
    """Stable Diffusion 3 and 3.5: joint attention over image and text, two CLIPs and an optional T5, rectified flow.

    Args:
        transformer, path: see `TransformerBackbone`.
        max_sequence_length: T5's tokens of a prompt, as diffusers' pipeline names it; without T5, so many zeros.
        gradient_checkpointing, compile: see `TransformerBackbone`.
    """

    pipeline = "StableDiffusion3Pipeline"
    kinds: ClassVar[Kinds] = {
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel", None),
    }
    view = SD3Layers
    packaged = ("sd3", "sd35_medium")
    shapes = SD3
    write_tiny = staticmethod(tiny.write_tiny)
    masked: ClassVar[bool] = False

    def __init__(
        self,
        transformer: Any,
        path: RectifiedFlow,
        *,
        max_sequence_length: int = 256,
        gradient_checkpointing: bool = False,
        compile: Compile = "none",
    ):
        if not 1 <= max_sequence_length <= 512:
            raise ConfigError(f"model.backbone.max_sequence_length: expected 1 ... 512, got {max_sequence_length}")
        super().__init__(transformer, path, "flow", gradient_checkpointing=gradient_checkpointing, compile=compile)
        self.max_sequence_length = max_sequence_length

    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        if conditioning.mask is not None:
            raise ConfigError("Stable Diffusion 3 attends to every token; it takes no mask of the positive prompt")
        if conditioning.pooled is None:
            raise ConfigError("Stable Diffusion 3 needs the pooled embedding of its CLIPs; these prompts have none")
        dtype, time = self.transformer.dtype, self.network_time(t)
        output = self.attached.run(
            at_time(state, time),
            hidden_states=x.to(dtype),
            timestep=time,
            encoder_hidden_states=conditioning.tokens.to(dtype),
            pooled_projections=conditioning.pooled.to(dtype),
            return_dict=False,
        )[0]
        return output.to(x.dtype)

    def blank(self, rows: int) -> Conditioning:
        described, dtype = self.transformer.config, self.transformer.dtype
        tokens = torch.zeros(rows, LENGTH + self.max_sequence_length, described.joint_attention_dim, dtype=dtype)
        return Conditioning(tokens, torch.zeros(rows, described.pooled_projection_dim, dtype=dtype))

    @classmethod
    def wrap(
        cls, parts: Parts, scheduler: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[Self, TextEncoder, Autoencoder]:
        backbone, width = cls(parts.network, read_flow(scheduler), **options), parts.network.config.joint_attention_dim
        clips, t5 = parts.texts[:2], parts.texts[2] if len(parts.texts) > 2 else None
        return backbone, SD3Text(clips, t5, width=width, length=backbone.max_sequence_length), VAE(parts.vae)
