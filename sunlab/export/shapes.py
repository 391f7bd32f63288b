"""Matching an adapter to a base by the shapes of its text-attention layers."""

from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from typing import Any

from sunlab.backbones.attention import Adaptable, Layer, Layers
from sunlab.backbones.base import BACKBONES, Backbone
from sunlab.backbones.locate import packaged_bases


def layers_of(backbone: Adaptable) -> dict[str, Layer]:
    """The text-attention layers of a network, on any device, wrapped by LoRA or not."""
    return {
        path: Layer(layer.width, layer.text_width, layer.heads, layer.normalises_keys, layer.text_space)
        for path, layer in backbone.text_attention().items()
    }


def shape_hash(layers: Layers) -> str:
    """SHA-256 over names, widths, heads, norms of keys and text spaces: two bases of one hash take each other's adapters."""
    lines = (
        f"{path} {layer.width} {layer.text} {layer.heads}{' norm' if layer.normalised else ''}{layer.text_space and ' '}"
        f"{layer.text_space}\n"
        for path, layer in sorted(layers.items())
    )
    return sha256("".join(lines).encode()).hexdigest()


def describe_base(backbone: Adaptable) -> dict[str, Any]:
    """The `base` field of a header: the name of the published model and the hash of the shapes; where they are known, the
    registered family as `backbone`, and the probability path."""
    layers = layers_of(backbone)
    described: dict[str, Any] = {"family": family_of(layers), "cross_attention": shape_hash(layers)}
    if (name := backbone_of(backbone)) is not None:
        described["backbone"] = name
    if isinstance(backbone, Backbone):
        described["path"] = backbone.path.describe()
    return described


def backbone_of(adaptable: Adaptable) -> str | None:
    """The registered family of a backbone, or of the network of a pipeline if one knows its class; else None."""
    for name in BACKBONES.names():
        factory = BACKBONES.get(name).factory
        if type(adaptable) is factory or type(factory.adaptable(getattr(adaptable, "network", None))) is type(adaptable):
            return name
    return None


def family_of(layers: Layers) -> str:
    """The name of the first of `families` with these layers; `other` if there is none."""
    return next((name for name, known in families() if dict(known) == dict(layers)), "other")


def families() -> Iterator[tuple[str, Layers]]:
    """Name and layers of the published models that each registered family states, then of the packaged models."""
    for name in BACKBONES.names():
        yield from BACKBONES.get(name).factory.known_layers().items()
    yield from ((name, _packaged(name)) for name in packaged_bases())


@cache
def _packaged(name: str) -> Layers:
    from sunlab.backbones.pretrained import outline_base

    return layers_of(outline_base(name).backbone)
