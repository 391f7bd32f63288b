"""The joint attention layers of published models, by which an adapter file is matched to its base."""

from collections.abc import Mapping

from sunlab.backbones.attention import Layer, Layers


def joint_layers(blocks: int, heads: int, *, normalised: bool) -> Layers:
    """Layers of a transformer with 64 channels a head."""
    layer = Layer(64 * heads, 64 * heads, heads, normalised)
    return {f"transformer_blocks.{block}.attn": layer for block in range(blocks)}


SD3: Mapping[str, Layers] = {
    "sd3": joint_layers(24, 24, normalised=False),
    "sd35_medium": joint_layers(24, 24, normalised=True),
    "sd35_large": joint_layers(38, 38, normalised=True),
}
