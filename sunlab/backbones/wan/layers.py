"""Wan's transformer as adapters attach to it, and the layers of the published models."""

from collections.abc import Mapping
from typing import ClassVar

from sunlab.backbones.attention import Layer, Layers, TokenContext, encoded_pooled
from sunlab.backbones.carried import CarriedLayers, CarriedTextAttention
from sunlab.types import Conditioning

TEXT_SPACE = "umt5"

WAN: Mapping[str, Layers] = {
    name: {f"blocks.{i}.attn2": Layer(128 * heads, 128 * heads, heads, True, TEXT_SPACE) for i in range(blocks)}
    for name, blocks, heads in (("wan_1300m", 30, 12), ("wan_14b", 40, 40))
}
"""The cross-attention layers of published models, by which an adapter file is matched to its base."""


class WanTextAttention(CarriedTextAttention):
    """A cross-attention layer. Its norms of queries and keys are over all heads at once."""

    text_space = TEXT_SPACE
    processor: ClassVar[str] = "WanAttnProcessor"
    normalises_keys = True


class WanLayers(CarriedLayers):
    """A diffusers WanTransformer3DModel, whose pipelines pass their call's keyword arguments on, not their property."""

    handed: ClassVar[bool] = False
    blocks: ClassVar[str] = "blocks"
    layer = WanTextAttention
    encoded = staticmethod(encoded_pooled)

    def context(self, conditioning: Conditioning) -> TokenContext:
        """See `Backbone.context`: the tokens after the text embedder, which comes before the blocks."""
        tokens = self.network.condition_embedder.text_embedder(conditioning.tokens.to(self.network.dtype))
        return TokenContext(tokens, conditioning.mask)
