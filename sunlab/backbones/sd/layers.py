"""A diffusers U-Net as adapters attach to it: its attention layers."""

from collections.abc import Mapping
from typing import ClassVar

from sunlab.backbones.attention import Extension, NetworkLayers, TokenContext, encoded_pooled
from sunlab.backbones.sd.attention import UNetAttachment, UNetTextAttention, text_attention
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
