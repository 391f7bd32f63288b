"""The cross-attention layers of published U-Nets, by which an adapter file is matched to its base."""

from collections.abc import Mapping
from itertools import chain

from sunlab.backbones.attention import Layer, Layers


def unet_layers(text: int, heads: int | None, **blocks: tuple[int, int, int]) -> dict[str, Layer]:
    """Layers in the order of a diffusers U-Net.

    Args:
        text: d.
        heads: None: 64 channels a head.
        blocks: (width, attentions, depth) of each block with cross-attention: down0=..., up1=..., mid=...
    """
    paths = {k: "mid_block" if k == "mid" else f"{k[:-1]}_blocks.{k[-1]}" for k in blocks}
    return dict(chain.from_iterable(_block(paths[k], text, heads, *block).items() for k, block in blocks.items()))


def _block(path: str, text: int, heads: int | None, width: int, attentions: int, depth: int) -> dict[str, Layer]:
    layer = Layer(width, text, heads or width // 64)
    names = (f"{path}.attentions.{a}.transformer_blocks.{b}.attn2" for a in range(attentions) for b in range(depth))
    return dict.fromkeys(names, layer)


_SD: dict[str, tuple[int, int, int]] = {
    "down0": (320, 2, 1), "down1": (640, 2, 1), "down2": (1280, 2, 1),
    "up1": (1280, 3, 1), "up2": (640, 3, 1), "up3": (320, 3, 1), "mid": (1280, 1, 1),
}  # fmt: skip

SD: Mapping[str, Layers] = {"sd1": unet_layers(768, 8, **_SD), "sd2": unet_layers(1024, None, **_SD)}
SDXL: Mapping[str, Layers] = {
    "sdxl": unet_layers(
        2048, None, down1=(640, 2, 2), down2=(1280, 2, 10), up0=(1280, 3, 10), up1=(640, 3, 2), mid=(1280, 1, 10)
    )
}
