"""A JSON Schema (draft 2020-12) of configuration files, registered components included, by which editors complete YAML.

It describes one file: what a later file or an override may still give is not required.
"""

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union

from registry import Entry, Parameter
from sunlab.config.shape import Shape
from sunlab.config.trainer import parameters_of_the_trainer
from sunlab.registries import KINDS, registry_of

Schema = dict[str, Any]

INTERPOLATION: Schema = {"type": "string", "pattern": r"\$\{", "description": "an interpolation, as ${seed}"}
NEVER: Schema = {"not": {}}
PLAIN: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[-+]?[0-9.]+[eE][-+]?[0-9]+$"}]},
    str: {"type": "string"},
    Path: {"type": "string"},
    type(None): {"type": "null"},
}


def json_schema(section: type) -> Schema:
    """The schema of files whose top level is `section`: `Config`, or the `Sweep` of a sweep file."""
    kinds = {kind: _kind(kind) for kind in KINDS}
    top = _section(Shape(section))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top, "$defs": {**kinds, "text": INTERPOLATION}}


def _section(shape: Shape) -> Schema:
    texts = meanings(shape.annotation)
    defaults = vars(shape.annotation())
    properties = {}
    for name, inner in shape.fields.items():
        described = {"description": texts[name]} if name in texts else {}
        plain = isinstance(defaults[name], (bool, int, float, str)) and not inner.section
        properties[name] = {**_place(name, inner), **described, **({"default": defaults[name]} if plain else {})}
    return {"type": ["object", "null"], "properties": properties, "additionalProperties": False}


def _place(name: str, shape: Shape) -> Schema:
    if shape.section:
        return _section(shape)
    if name == "trainer":
        return {**_parameters(parameters_of_the_trainer()), "type": ["object", "null"]}
    if shape.item:
        return {"type": "array", "items": _place(name, shape.item)}
    if shape.kind:
        return _or(_reference(shape.kind), *([PLAIN[type(None)]] if shape.optional else []))
    return _or(schema_of(shape.annotation), {"$ref": "#/$defs/text"})


def _kind(kind: str) -> Schema:
    """A component of a kind: its name, a mapping with `name` and parameters, or the parameters alone."""
    registry = registry_of(kind)
    entries = [registry.get(name) for name in registry.names()]
    names: list[Schema] = [{"const": entry.name, "description": entry.summary} for entry in entries]
    alone: dict[str, Schema] = {}
    for entry in entries:
        for name, parameter in entry.parameters.items():
            alone[name] = _or(*_options(alone.get(name)), _parameter(parameter))
    nameless = {"type": "object", "properties": alone, "additionalProperties": False}
    return {"anyOf": [*names, {"$ref": "#/$defs/text"}, *map(_component, entries), nameless]}


def _component(entry: Entry[Any]) -> Schema:
    described = {"description": entry.summary, "required": ["name"]}
    found = _parameters(entry.parameters)
    return {**found, "properties": {"name": {"const": entry.name}, **found["properties"]}, **described}


def _parameters(parameters: Mapping[str, Parameter]) -> Schema:
    properties = {name: _parameter(parameter) for name, parameter in parameters.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _parameter(parameter: Parameter) -> Schema:
    """One parameter. One that is named after a kind and takes mappings, as `filters`, holds a list of its components."""
    if parameter.name in KINDS and "dict" in str(parameter.annotation):
        return {"type": ["array", "null"], "items": _reference(parameter.name)}
    schema = _or(schema_of(parameter.annotation), {"$ref": "#/$defs/text"})
    return schema if parameter.required else {**schema, "description": f"default: {parameter.default!r}"}


def _reference(kind: str) -> Schema:
    return {"$ref": f"#/$defs/{kind}"}


def schema_of(annotation: Any) -> Schema:
    """The JSON Schema of a type annotation: `{}`, which takes everything, for `Any`; `{"not": {}}` for Python objects."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return _or(*map(schema_of, arguments))
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments[-1:] != (...,):
        items = [schema_of(argument) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (list, tuple, Sequence):
        return {"type": "array", "items": schema_of(arguments[0])}
    if Shape(annotation).section:
        return _section(Shape(annotation))
    if dict in (origin, annotation) or origin is Mapping:
        return {"type": "object", "additionalProperties": schema_of(arguments[1]) if arguments else {}}
    if annotation in (list, tuple):
        return {"type": "array"}
    return PLAIN.get(annotation, {} if annotation in (Any, object) else NEVER)


def _or(*schemas: Schema) -> Schema:
    """The least schema that takes what any of `schemas` takes."""
    if {} in schemas:
        return {}
    options: list[Schema] = []
    for schema in schemas:
        options += [option for option in _options(schema) if option not in (*options, NEVER)]
    return options[0] if len(options) == 1 else {"anyOf": options}


def _options(schema: Schema | None) -> list[Schema]:
    return [] if schema is None else schema.get("anyOf", [schema])


def meanings(section: type) -> dict[str, str]:
    """Field -> the comment that ends its last line in the source: its one line of meaning."""
    known, found, name = {f.name for f in fields(section)}, {}, ""
    for declared in filter(is_dataclass, reversed(section.__mro__)):
        for line in inspect.getsource(declared).splitlines():
            head = line.strip().partition(":")[0]
            name = head if head in known else name
            if name and "  # " in line:
                found[name] = line.rpartition("  # ")[2]
    return found
