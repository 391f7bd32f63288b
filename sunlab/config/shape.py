"""What the schema says of a key: a section, a component, a list of components, or a plain value."""

import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any

from sunlab.config.schema import Config


@cache
def fields_of(section: type) -> dict[str, Field]:
    return {f.name: f for f in fields(section)}


@cache
def annotations_of(section: type) -> dict[str, Any]:
    return typing.get_type_hints(section)


def subsection(section: type, name: str) -> type | None:
    """The dataclass of a field that is a section itself."""
    annotation = annotations_of(section).get(name)
    return annotation if isinstance(annotation, type) and is_dataclass(annotation) else None


def listed_section(section: type, name: str) -> type | None:
    """The dataclass of a field that is a list of sections."""
    annotation = annotations_of(section).get(name)
    (item, *_) = (*typing.get_args(annotation), None)
    listed = typing.get_origin(annotation) is list and isinstance(item, type) and is_dataclass(item)
    return item if listed else None


def component_kind(section: type, name: str) -> str | None:
    """The registry's kind of a field that holds a component or a list of components."""
    field = fields_of(section).get(name)
    return field.metadata.get("registry") if field else None


def is_list(section: type, name: str) -> bool:
    factory = fields_of(section)[name].default_factory
    return factory is not MISSING and isinstance(factory(), list)


@cache
def places_of(name: str, section: type = Config) -> tuple[str, ...]:
    """The dotted paths of all keys of that name in the sections below `section`."""
    found: tuple[str, ...] = ()
    for key in fields_of(section):
        if inner := subsection(section, key):
            found += (f"{key}.{name}",) if name in fields_of(inner) else ()
            found += tuple(f"{key}.{path}" for path in places_of(name, inner))
    return found


def chooses_component(key: str) -> bool:
    """Whether `key` names a component (`loss`, `loss.name`, `callbacks.0`) or a whole list of sections, rather than a key
    inside one."""
    section: type | None = Config
    parts = key.split(".")
    while parts:
        name = parts.pop(0)
        if section is None:
            return False
        if component_kind(section, name):
            rest = parts[1:] if parts and is_list(section, name) else parts
            return rest in ([], ["name"])
        if listed := listed_section(section, name):
            if len(parts) < 2:
                return True
            section, parts = listed, parts[1:]
        else:
            section = subsection(section, name)
    return False


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
