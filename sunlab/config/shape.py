"""A place in the schema: a section, a component, a list of either, or a plain value."""

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from sunlab.config.schema import Config


@dataclass(frozen=True)
class Shape:
    """What a place may hold.

    Attributes:
        annotation: the type of the value.
        kind: the registry of the component, or of the components in a list; None for sections and plain values.
    """

    annotation: Any
    kind: str | None = None

    @property
    def section(self) -> bool:
        return is_dataclass(self.annotation)

    @property
    def item(self) -> "Shape | None":
        """The items of a list of sections or components."""
        if typing.get_origin(self.annotation) is not list:
            return None
        item = Shape(typing.get_args(self.annotation)[0], self.kind)
        return item if item.section or item.kind else None

    @property
    def optional(self) -> bool:
        return isinstance(self.annotation, types.UnionType) and type(None) in typing.get_args(self.annotation)

    @property
    def fields(self) -> "Mapping[str, Shape]":
        """The keys of a section."""
        return _fields(self.annotation) if self.section else {}

    def child(self, part: str) -> "Shape | None":
        """One step down a dotted path: a key of a section, a number in a list. None for what no schema describes."""
        return self.item if part.isdecimal() else self.fields.get(part)


@cache
def _fields(section: type) -> Mapping[str, Shape]:
    hints = typing.get_type_hints(section)
    return {f.name: Shape(hints[f.name], f.metadata.get("registry")) for f in fields(section)}


ROOT = Shape(Config)


@cache
def places_of(name: str, shape: Shape = ROOT) -> tuple[str, ...]:
    """The dotted paths of all keys of that name in the sections below `shape`."""
    found: tuple[str, ...] = ()
    for key, inner in shape.fields.items():
        found += (f"{key}.{name}",) if name in inner.fields else ()
        found += tuple(f"{key}.{path}" for path in places_of(name, inner))
    return found


def chooses_component(key: str) -> bool:
    """Whether `key` names a component (`loss`, `loss.name`, `callbacks.0`) or a whole list of sections, rather than a key
    inside one."""
    shape: Shape | None = ROOT
    *above, last = parts = key.split(".")
    for place, part in enumerate(parts):
        assert shape is not None
        if shape.kind and not shape.item:
            return place == len(above) and last == "name"
        listed, shape = shape.item, shape.child(part)
        if shape is None:
            return False
    assert shape is not None
    return bool(shape.kind or shape.item or listed)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a tree with its dotted path. An empty mapping and a list of plain values are leaves."""
    if isinstance(value, Mapping) and value:
        for key, child in value.items():
            yield from leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}.{index}")
    else:
        yield path, value
