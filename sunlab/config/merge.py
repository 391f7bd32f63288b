"""Defaults, files and overrides laid over each other, remembering where every leaf came from."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any

from sunlab.config.schema import Config
from sunlab.config.shape import component_kind, is_list, leaves, listed_section, subsection
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
        self._section(self.values, layer, Config, "", origin)

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

    def _section(self, into: dict, layer: Mapping, section: type, path: str, origin: str) -> None:
        for key, value in layer.items():
            here = f"{path}.{key}" if path else key
            inner = subsection(section, key)
            if component_kind(section, key) and is_list(section, key):
                self._components(into, key, value, here, origin)
            elif component_kind(section, key):
                self._component(into, key, value, here, origin)
            elif listed := listed_section(section, key):
                self._sections(into, key, value, listed, here, origin)
            elif inner and (value is None or isinstance(value, Mapping)):  # `trainer:` with nothing below it is empty
                if not isinstance(into.get(key), dict):
                    self._set(into, key, {}, here, origin)
                if value:
                    self.origins.pop(here, None)  # it was an empty leaf
                self._section(into[key], value or {}, inner, here, origin)
            elif value is None and isinstance(into.get(key), dict):
                continue
            else:
                self._value(into, key, value, here, origin)

    def _component(self, into: Any, key: Any, value: Any, here: str, origin: str) -> None:
        value, former = named(value), into[key] if isinstance(into, list) else into.get(key)
        keeps = isinstance(value, Mapping) and isinstance(former, Mapping)
        if keeps and value.get("name", former.get("name")) == former.get("name"):
            self._mapping(former, value, here, origin)
        else:
            self._set(into, key, value, here, origin)

    def _components(self, into: dict, key: str, value: Any, here: str, origin: str) -> None:
        former = into.get(key)
        if isinstance(former, list) and _indexes(value):
            for index, item in value.items():  # the override callbacks.0.every=5
                self._component(former, _place(index, former, here, origin), item, f"{here}.{index}", origin)
        else:
            self._set(into, key, [named(v) for v in value] if isinstance(value, list) else value, here, origin)

    def _sections(self, into: dict, key: str, value: Any, section: type, here: str, origin: str) -> None:
        former = into.get(key)
        if isinstance(former, list) and _indexes(value):
            for index, item in value.items():  # the override evaluate.variants.0.steps=2
                place = _place(index, former, here, origin)
                if isinstance(item, Mapping) and isinstance(former[place], dict):
                    self._section(former[place], item, section, f"{here}.{index}", origin)
                else:
                    self._set(former, place, item, f"{here}.{index}", origin)
        else:
            self._set(into, key, value, here, origin)

    def _value(self, into: dict, key: str, value: Any, here: str, origin: str) -> None:
        former = into.get(key)
        if isinstance(former, dict) and isinstance(value, Mapping):
            self._mapping(former, value, here, origin)
        else:
            self._set(into, key, value, here, origin)

    def _mapping(self, into: dict, layer: Mapping, here: str, origin: str) -> None:
        if layer:
            self.origins.pop(here, None)  # it was an empty leaf
        for key, value in layer.items():
            self._value(into, key, value, f"{here}.{key}", origin)

    def _set(self, into: Any, key: Any, value: Any, here: str, origin: str) -> None:
        for path in [p for p in self.origins if p == here or p.startswith(f"{here}.")]:
            del self.origins[path]
        into[key] = deepcopy(value)
        self.origins.update({leaf: origin for leaf, _ in leaves(value, here)})


def named(value: Any) -> Any:
    """`msc` is short for `{name: msc}`; the text of an interpolation stays, it may stand for a whole component."""
    return {"name": value} if isinstance(value, str) and "${" not in value else value


def _indexes(value: Any) -> bool:
    """Whether a layer names items of a list by their places, as an override does."""
    return isinstance(value, Mapping) and bool(value) and all(key.isdecimal() for key in value)


def _place(index: str, items: list, here: str, origin: str) -> int:
    """Raises `ConfigError` for a place that the list does not have."""
    if int(index) < len(items):
        return int(index)
    there = f"has {len(items)}, counted from 0" if items else "is an empty list"
    raise ConfigError(f"{origin}: {here}.{index}: no such item; {here} {there}")
