"""The cross-attention layers of the published SANA transformers, by which an adapter file is matched to its base."""

from collections.abc import Mapping

from sunlab.backbones.attention import Layer, Layers


def sana_layers(blocks: int, width: int, heads: int) -> dict[str, Layer]:
    """The text has the transformer's width, after `caption_projection`."""
    return {f"transformer_blocks.{number}.attn2": Layer(width, width, heads) for number in range(blocks)}


SANA: Mapping[str, Layers] = {
    "sana_600m": sana_layers(28, 1152, 16),
    "sana_1600m": sana_layers(20, 2240, 20),
    "sana_4800m": sana_layers(60, 2240, 20),
}
