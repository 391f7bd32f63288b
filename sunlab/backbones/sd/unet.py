"""diffusers' UNet2DConditionModel as a `Backbone`."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sunlab.backbones.attention import Extension, TokenContext
from sunlab.backbones.base import BACKBONES, Backbone
from sunlab.backbones.sd.attention import UNetAttachment, UNetTextAttention, passing, text_attention
from sunlab.diffusion.path import ProbabilityPath
from sunlab.types import Conditioning, PredictionType


@BACKBONES.register("diffusers_unet")
class DiffusersUNet(Backbone):
    """The U-Net of Stable Diffusion 1.x, 2.x and XL, as diffusers loads it.

    Args:
        unet: a UNet2DConditionModel.
        path: the probability path that it was trained on.
        prediction_type: what it predicts.
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third more compute.
        channels_last: convolutions in NHWC.
        attention: `sdpa`, torch's fused kernels; `eager`, matrix products and softmax, which on CPUs in bfloat16 take half
            the time of the fused kernel's backward.
        compile: the mode of torch.compile, compiled in the first pass with each shape and state of the adapter; it needs a
            C++ compiler on CPUs. `none`: not compiled.
    """

    def __init__(
        self,
        unet: nn.Module,
        path: ProbabilityPath,
        prediction_type: PredictionType,
        *,
        gradient_checkpointing: bool = False,
        channels_last: bool = False,
        attention: Literal["sdpa", "eager"] = "sdpa",
        compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = "none",
    ):
        super().__init__()
        self.unet: Any = unet
        self.path, self.prediction_type = path, prediction_type
        described: Any = unet.config
        self.sample_shape = (described.in_channels, described.sample_size, described.sample_size)
        if attention == "eager":
            from diffusers.models.attention_processor import AttnProcessor

            self.unet.set_attn_processor(AttnProcessor())
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        if channels_last:
            self.unet.to(memory_format=torch.channels_last)
        if compile != "none":
            self.unet.compile(mode=compile)  # in place: names of parameters and the module itself stay as they are

    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        dtype = self.unet.dtype
        given: dict[str, Any] = {"encoder_hidden_states": conditioning.tokens.to(dtype), **passing(state)}
        if conditioning.mask is not None:
            given["encoder_attention_mask"] = conditioning.mask
        if conditioning.pooled is not None:
            given["added_cond_kwargs"] = {"text_embeds": conditioning.pooled.to(dtype), **conditioning.added}
        output = self.unet(x.to(dtype), self.network_time(t), return_dict=False, **given)[0]
        return output.to(x.dtype)

    def context(self, conditioning: Conditioning) -> TokenContext:
        return TokenContext(conditioning.tokens, conditioning.mask)

    def text_attention(self) -> dict[str, UNetTextAttention]:
        return text_attention(self.unet)

    def extend(self, extensions: Mapping[str, Extension]) -> UNetAttachment:
        return UNetAttachment(self.unet, extensions)
