"""PixArt's transformer as adapters attach to it."""

from typing import ClassVar

from sunlab.backbones.attention import TokenContext, encoded_masked
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.types import Conditioning


class PixArtLayers(UNetLayers):
    """A diffusers PixArtTransformer2DModel, whose pipelines pass no keyword arguments to its attention layers."""

    handed: ClassVar[bool] = False
    projects: ClassVar[bool] = True
    encoded = staticmethod(encoded_masked)

    def context(self, conditioning: Conditioning) -> TokenContext:
        """See `Backbone.context`: the tokens after `caption_projection`, which comes before the blocks."""
        tokens = conditioning.tokens.to(self.network.dtype)
        projection = self.network.caption_projection
        return TokenContext(tokens if projection is None else projection(tokens), conditioning.mask)
