"""Defaults, files and overrides merged, with the origin of every leaf."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any

from sunlab.config.schema import Config
from sunlab.config.shape import ROOT, Shape, leaves
from sunlab.errors import ConfigError


class Draft:
    """Plain values, not checked yet.

    Attributes:
        values: the tree; a component is a mapping with `name`, unless it is null or an interpolation.
        origins: dotted path of a leaf -> where it came from.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.add(asdict(Config()), "default")

    def add(self, layer: Mapping[str, Any], origin: str) -> None:
        """Merge a layer over the values. Another name of a component drops the former one's parameters; lists replace."""
        for key, value in layer.items():
            self._merge(self.values, key, value, ROOT.child(key), key, origin)

    def override(self, key: str, value: Any) -> None:
        for part in reversed(key.split(".")):
            value = {part: value}
        self.add(value, "override")

    def origin(self, path: str) -> str:
        """Where the value at `path` came from: its own origin, that of its first leaf, or that of what holds it."""
        if path in self.origins:
            return self.origins[path]
        below = [origin for leaf, origin in self.origins.items() if leaf.startswith(f"{path}.")]
        if below:
            return next((origin for origin in below if origin != "default"), below[0])
        return self.origin(path.rpartition(".")[0]) if "." in path else "default"

    def _merge(self, into: Any, key: Any, value: Any, shape: Shape | None, here: str, origin: str) -> None:
        """`value` over `into[key]`. Args: shape, None below a component and in `trainer`."""
        former = into[key] if isinstance(into, list) else into.get(key)
        kind = shape.kind if shape else None
        if kind:
            value = [named(item) for item in value] if isinstance(value, list) else named(value)
        if value is None and isinstance(former, dict) and shape and not kind:
            return  # a section with nothing below it
        if isinstance(value, Mapping) and shape and shape.section and not isinstance(former, dict):
            self._set(into, key, {}, here, origin)
            former = into[key]
        if isinstance(former, list) and shape and shape.item and _indexes(value):
            for index, item in value.items():  # the override callbacks.0.every=5
                self._merge(former, _place(index, former, here, origin), item, shape.item, f"{here}.{index}", origin)
        elif isinstance(value, Mapping) and isinstance(former, dict) and not (kind and _renames(former, value)):
            if value:
                self.origins.pop(here, None)  # it was an empty leaf
            for name, child in value.items():
                self._merge(former, name, child, shape.child(name) if shape else None, f"{here}.{name}", origin)
        else:
            self._set(into, key, value, here, origin)

    def _set(self, into: Any, key: Any, value: Any, here: str, origin: str) -> None:
        for path in [p for p in self.origins if p == here or p.startswith(f"{here}.")]:
            del self.origins[path]
        into[key] = deepcopy(value)
        self.origins.update({leaf: origin for leaf, _ in leaves(value, here)})


def named(value: Any) -> Any:
    """`msc` is short for `{name: msc}`; the text of an interpolation stays, it may stand for a whole component."""
    return {"name": value} if isinstance(value, str) and "${" not in value else value


def _renames(former: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return "name" in value and value["name"] != former.get("name")


def _indexes(value: Any) -> bool:
    """Whether a layer names items of a list by their places, as an override does."""
    return isinstance(value, Mapping) and bool(value) and all(key.isdecimal() for key in value)


def _place(index: str, items: list, here: str, origin: str) -> int:
    """Raises `ConfigError` for a place that the list does not have."""
    if int(index) < len(items):
        return int(index)
    there = f"has {len(items)}, counted from 0" if items else "is an empty list"
    raise ConfigError(f"{origin}: {here}.{index}: no such item; {here} {there}")
