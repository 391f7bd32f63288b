"""A diffusers U-Net as adapters attach to it: its attention layers, its layers with weights, and the state of its passes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from sunlab.backbones.attention import Extension, TokenContext, encoded_pooled
from sunlab.backbones.sd.attention import STATE, UNetAttachment, UNetTextAttention, text_attention
from sunlab.backbones.state import carrying
from sunlab.errors import ConfigError
from sunlab.types import Conditioning


class UNetLayers:
    """A diffusers U-Net as adapters attach to it.

    Args:
        unet: a UNet2DConditionModel.
    """

    key: ClassVar[str] = "cross_attention_kwargs"
    handed: ClassVar[bool] = True
    encoded = staticmethod(encoded_pooled)

    def __init__(self, unet: Any):
        self.unet = unet

    @property
    def network(self) -> Any:
        """The U-Net."""
        return self.unet

    def context(self, conditioning: Conditioning) -> TokenContext:
        """See `Backbone.context`: the tokens as they are, a U-Net's layers take the text encoder's own."""
        return TokenContext(conditioning.tokens, conditioning.mask)

    def text_attention(self) -> dict[str, UNetTextAttention]:
        """The cross-attention layers by path, in diffusers' order: down, up, mid."""
        return text_attention(self.unet)

    def extend(self, extensions: Mapping[str, Extension]) -> UNetAttachment:
        """See `Backbone.extend`."""
        return UNetAttachment(self.unet, extensions)

    def run(self, state: Any, *args: Any, **kwargs: Any) -> Any:
        """A pass of the U-Net with the state of an adapter, or without one."""
        with carrying(state):
            return self.unet(*args, **kwargs, **passing(self.unet, state))

    def layers(self) -> dict[str, nn.Module]:
        """See `Backbone.layers`. Raises `ConfigError` if projections are fused: the fused matrix bypasses the layers that it
        was made of."""
        if any(getattr(module, "fused_projections", False) for module in self.unet.modules()):
            raise ConfigError("this U-Net's attention projections are fused; call unfuse_qkv_projections() first")
        named = ((name.replace(".base_layer", ""), module) for name, module in self.unet.named_modules())
        kinds = (nn.Linear, nn.modules.conv._ConvNd)
        return {name: module for name, module in named if isinstance(module, kinds) and ".lora_" not in name}


def passing(unet: Any, state: Any) -> dict[str, Any]:
    """The U-Net's keyword arguments in a pass with this state; none without one, or if no layer is extended."""
    return {} if state is None or not getattr(unet, "extensions", 0) else {"cross_attention_kwargs": {STATE: state}}
