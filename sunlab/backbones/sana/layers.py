"""SANA's transformer as adapters attach to it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from sunlab.backbones.attention import Extension, TokenContext, encoded_masked
from sunlab.backbones.sana.attention import SanaAttachment, SanaTextAttention
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.types import Conditioning


class SanaLayers:
    """A diffusers SanaTransformer2DModel as adapters attach to it.

    Args:
        transformer: the model.
    """

    key: ClassVar[str] = "attention_kwargs"
    handed: ClassVar[bool] = True
    encoded = staticmethod(encoded_masked)

    def __init__(self, transformer: Any):
        self.transformer = transformer

    @property
    def network(self) -> Any:
        """The transformer."""
        return self.transformer

    def context(self, conditioning: Conditioning) -> TokenContext:
        """See `Backbone.context`: the tokens after `caption_projection` and `caption_norm`."""
        tokens = self.transformer.caption_projection(conditioning.tokens.to(self.transformer.dtype))
        return TokenContext(self.transformer.caption_norm(tokens), conditioning.mask)

    def text_attention(self) -> dict[str, SanaTextAttention]:
        """The cross-attention layers by path."""
        blocks = enumerate(self.transformer.transformer_blocks)
        return {f"transformer_blocks.{number}.attn2": SanaTextAttention(block.attn2) for number, block in blocks}

    def extend(self, extensions: Mapping[str, Extension]) -> SanaAttachment:
        """See `Backbone.extend`."""
        return SanaAttachment(self.text_attention(), extensions)

    def layers(self) -> dict[str, nn.Module]:
        """See `Backbone.layers`."""
        return UNetLayers(self.transformer).layers()
