"""The cross-attention layers of ComfyUI's U-Net, by ComfyUI's keys and by diffusers' paths."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from .adapter import Branch, SUNAdapter
from .errors import DataError

Key = tuple[str, int, int]
"""("input" | "middle" | "output", number of the block, index of the transformer in it)."""


@dataclass(frozen=True)
class Layer:
    """A cross-attention layer: its path in diffusers' U-Net, and ComfyUI's module of it."""

    path: str
    attn: Any

    @property
    def width(self) -> int:
        return self.attn.heads * self.attn.dim_head

    @property
    def text(self) -> int:
        return self.attn.to_k.in_features


def cross_attention(unet: Any) -> dict[Key, Layer]:
    """The layers of a `UNetModel` of ComfyUI. Raises `DataError` for another network."""
    unet = getattr(unet, "_orig_mod", unet)  # out of the wrap of torch.compile
    if not all(hasattr(unet, name) for name in ("input_blocks", "middle_block", "output_blocks")):
        raise DataError(f"{type(unet).__name__} is no U-Net of Stable Diffusion 1.x or SDXL, which SUN adapters need")
    down = _side(unet.input_blocks, "input", "down_blocks.{}", "Downsample")
    up = _side(unet.output_blocks, "output", "up_blocks.{}", "Upsample")
    return {**dict(down), **dict(_side([unet.middle_block or ()], "middle", "mid_block", "")), **dict(up)}


def _side(blocks: Iterable[Any], name: str, place: str, last: str) -> Iterator[tuple[Key, Layer]]:
    """Of a list of blocks; one with a module of the class `last` ends a block of diffusers'."""
    level = number_in_level = 0
    for number, block in enumerate(blocks):
        transformers = [part.transformer_blocks for part in block if hasattr(part, "transformer_blocks")]
        for stack in transformers:
            for index, transformer in enumerate(stack):
                path = f"{place.format(level)}.attentions.{number_in_level}.transformer_blocks.{index}.attn2"
                yield (name, number, index), Layer(path, transformer.attn2)
            number_in_level += 1
        if any(type(part).__name__ == last for part in block):
            level, number_in_level = level + 1, 0


def fit(adapter: SUNAdapter, layers: Mapping[Key, Layer]) -> dict[Key, tuple[Layer, dict[str, Branch]]]:
    """Each layer with its branches.

    Raises:
        DataError: the adapter is for another base: names, widths and heads of the layers differ.
    """
    stated = adapter.header.get("base")
    if stated is not None and stated["cross_attention"] != _hash(layers.values()):
        raise DataError(
            f"{adapter.name}: made for a base of the family {stated.get('family')!r}, and the cross-attention layers of "
            "this model differ; load the base that the adapter was trained on, or a fine-tune of it"
        )
    paths = {layer.path for layer in layers.values()}
    if unmatched := sorted(paths ^ {name.replace("/", ".") for name in adapter.layers}):
        raise DataError(f"{adapter.name}: {unmatched[0]} is not in both the adapter and this model")
    for layer in layers.values():
        for name, branch in adapter.branches(layer.path).items():
            if branch.to_k is not None and tuple(branch.to_k.shape) != (layer.width, layer.text):
                raise DataError(
                    f"{adapter.name}: {layer.path}: {name}: shape {tuple(branch.to_k.shape)}, this model needs "
                    f"{(layer.width, layer.text)}; load a base of the adapter's family"
                )
    return {key: (layer, adapter.branches(layer.path)) for key, layer in layers.items()}


def _hash(layers: Iterable[Layer]) -> str:
    """As sunlab computes it over a U-Net of diffusers."""
    lines = sorted((layer.path, f"{layer.path} {layer.width} {layer.text} {layer.attn.heads}\n") for layer in layers)
    return sha256("".join(line for _, line in lines).encode()).hexdigest()
