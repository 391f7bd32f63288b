"""The cross-attention layers of the published SANA transformers, by which an adapter file is matched to its base."""

from collections.abc import Mapping

from sunlab.backbones.attention import Layer, Layers

TEXT_SPACE = "gemma-2"
"""PixArt's layers, over T5, have the shapes of the smallest SANA's."""


def sana_layers(blocks: int, width: int, heads: int) -> dict[str, Layer]:
    """The text has the transformer's width, after `caption_projection`."""
    layer = Layer(width, width, heads, text_space=TEXT_SPACE)
    return {f"transformer_blocks.{number}.attn2": layer for number in range(blocks)}


SANA: Mapping[str, Layers] = {
    "sana_600m": sana_layers(28, 1152, 16),
    "sana_1600m": sana_layers(20, 2240, 20),
    "sana_4800m": sana_layers(60, 2240, 20),
}
