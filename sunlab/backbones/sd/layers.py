"""A diffusers U-Net as adapters attach to it: its attention layers, and the state of its passes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from sunlab.backbones.attention import Extension, NetworkLayers, TokenContext, encoded_pooled
from sunlab.backbones.sd.attention import STATE, UNetAttachment, UNetTextAttention, text_attention
from sunlab.backbones.state import carrying
from sunlab.types import Conditioning


class UNetLayers(NetworkLayers):
    """A diffusers UNet2DConditionModel as adapters attach to it."""

    key: ClassVar[str] = "cross_attention_kwargs"
    encoded = staticmethod(encoded_pooled)

    def context(self, conditioning: Conditioning) -> TokenContext:
        """See `Backbone.context`: the tokens as they are, a U-Net's layers take the text encoder's own."""
        return TokenContext(conditioning.tokens, conditioning.mask)

    def text_attention(self) -> dict[str, UNetTextAttention]:
        """The cross-attention layers by path, in diffusers' order: down, up, mid."""
        return text_attention(self.network)

    def extend(self, extensions: Mapping[str, Extension]) -> UNetAttachment:
        """See `Backbone.extend`."""
        return UNetAttachment(self.network, extensions)

    def run(self, state: Any, *args: Any, **kwargs: Any) -> Any:
        """A pass of the U-Net with the state of an adapter, or without one."""
        with carrying(state):
            return self.network(*args, **kwargs, **passing(self.network, state))


def passing(unet: Any, state: Any) -> dict[str, Any]:
    """The U-Net's keyword arguments in a pass with this state; none without one, or if no layer is extended."""
    return {} if state is None or not getattr(unet, "extensions", 0) else {"cross_attention_kwargs": {STATE: state}}
