"""The cross-attention layers of the published PixArt models, by which an adapter file is matched to its base."""

from collections.abc import Mapping

from sunlab.backbones.attention import Layer, Layers

PIXART: Mapping[str, Layers] = {
    "pixart": {f"transformer_blocks.{i}.attn2": Layer(1152, 1152, 16) for i in range(28)}  # alpha and Sigma have the same
}
