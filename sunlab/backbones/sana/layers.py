"""SANA's transformer as adapters attach to it."""

from typing import ClassVar

from sunlab.backbones.attention import TokenContext, encoded_masked
from sunlab.backbones.carried import CarriedLayers, CarriedTextAttention
from sunlab.backbones.sana.shapes import TEXT_SPACE
from sunlab.types import Conditioning


class SanaTextAttention(CarriedTextAttention):
    """A cross-attention layer; where it has norms of queries and keys (SANA 1.5), they are over all heads at once."""

    text_space = TEXT_SPACE
    processor: ClassVar[str] = "SanaAttnProcessor2_0"


class SanaLayers(CarriedLayers):
    """A diffusers SanaTransformer2DModel as adapters attach to it."""

    layer = SanaTextAttention
    encoded = staticmethod(encoded_masked)

    def context(self, conditioning: Conditioning) -> TokenContext:
        """See `Backbone.context`: the tokens after `caption_projection` and `caption_norm`."""
        tokens = self.network.caption_projection(conditioning.tokens.to(self.network.dtype))
        return TokenContext(self.network.caption_norm(tokens), conditioning.mask)
