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

    key: ClassVar[str] = "attention_kwargs"
    projects: ClassVar[bool] = True
    encoded = staticmethod(encoded_masked)

    def context(self, conditioning: Conditioning) -> TokenContext:
        """See `Backbone.context`: the tokens after `caption_projection` and `caption_norm`."""
        tokens = self.network.caption_projection(conditioning.tokens.to(self.network.dtype))
        return TokenContext(self.network.caption_norm(tokens), conditioning.mask)

    def text_attention(self) -> dict[str, SanaTextAttention]:
        """The cross-attention layers by path."""
        blocks = enumerate(self.network.transformer_blocks)
        return {f"transformer_blocks.{number}.attn2": SanaTextAttention(block.attn2) for number, block in blocks}
