"""Which base is this? Told by the shapes of its cross-attention layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Any

from sunlab.backbones.attention import Adaptable


@dataclass(frozen=True)
class Layer:
    """A cross-attention layer: width h, text width d, number of heads."""

    width: int
    text: int
    heads: int


Layers = Mapping[str, Layer]
"""Path in the network -> layer, in the network's own order."""


def layers_of(backbone: Adaptable) -> dict[str, Layer]:
    """The text-attention layers of a network, on any device, wrapped by LoRA or not."""
    return {path: Layer(a.width, a.text_width, a.heads) for path, a in backbone.text_attention().items()}


def shape_hash(layers: Layers) -> str:
    """SHA-256 over names, widths and heads: two bases of one hash take each other's adapters."""
    lines = (f"{path} {layer.width} {layer.text} {layer.heads}\n" for path, layer in sorted(layers.items()))
    return sha256("".join(lines).encode()).hexdigest()


def describe_base(backbone: Adaptable) -> dict[str, Any]:
    """The `base` field of a header: family (`other` where it is none of `FAMILIES`) and hash of the shapes."""
    layers = layers_of(backbone)
    return {"family": family_of(layers), "cross_attention": shape_hash(layers)}


def family_of(layers: Layers) -> str:
    return next((name for name, known in FAMILIES.items() if dict(known) == dict(layers)), "other")


def _block(path: str, text: int, heads: int | None, width: int, attentions: int, depth: int) -> dict[str, Layer]:
    layer = Layer(width, text, heads or width // 64)
    names = (f"{path}.attentions.{a}.transformer_blocks.{b}.attn2" for a in range(attentions) for b in range(depth))
    return dict.fromkeys(names, layer)


def _family(text: int, heads: int | None, **blocks: tuple[int, int, int]) -> dict[str, Layer]:
    """`heads` None: 64 channels a head. Blocks, as (width, attentions, depth): down0=..., up1=..., mid=..."""
    paths = {k: "mid_block" if k == "mid" else f"{k[:-1]}_blocks.{k[-1]}" for k in blocks}
    return dict(chain.from_iterable(_block(paths[k], text, heads, *block).items() for k, block in blocks.items()))


_SD: dict[str, tuple[int, int, int]] = {
    "down0": (320, 2, 1), "down1": (640, 2, 1), "down2": (1280, 2, 1),
    "up1": (1280, 3, 1), "up2": (640, 3, 1), "up3": (320, 3, 1), "mid": (1280, 1, 1),
}  # fmt: skip

FAMILIES: Mapping[str, Layers] = {
    "sd1": _family(768, 8, **_SD),
    "sd2": _family(1024, None, **_SD),
    "sdxl": _family(
        2048, None, down1=(640, 2, 2), down2=(1280, 2, 10), up0=(1280, 3, 10), up1=(640, 3, 2), mid=(1280, 1, 10)
    ),
    "emoji": _family(96, 2, down0=(48, 1, 1), down1=(96, 1, 1), up1=(96, 2, 1), up2=(48, 2, 1), mid=(128, 1, 1)),
}
"""The families that have a name, their layers in a diffusers U-Net's order."""
