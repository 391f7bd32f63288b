"""Typed parameters of a component, read off its signature: keyword-only parameters are configuration."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from registry.errors import RegistryError

F = TypeVar("F", bound=Callable[..., None])
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """One configuration parameter of a component."""

    name: str
    annotation: Any
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    def __str__(self) -> str:
        text = f"{self.name}: {type_name(self.annotation)}"
        return text if self.required else f"{text} = {self.default!r}"


def parameters_of(factory: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword-only parameters of a class or function. Raises `RegistryError` for one without a type, or called `name`,
    which is how a configuration names the component itself."""
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(target)
    found = {}
    for parameter in inspect.signature(target).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.name == "name":
            raise RegistryError(f"{factory.__qualname__}: a parameter cannot be called 'name', the key of the component")
        if parameter.name not in hints:
            raise RegistryError(f"parameter {parameter.name!r} of {factory.__qualname__} needs a type annotation")
        found[parameter.name] = Parameter(parameter.name, hints[parameter.name], parameter.default)
    return found


def takes_also(other: type) -> Callable[[F], F]:
    """Decorator of an `__init__(self, *, ..., **rest)` that hands `rest` on to `other`: the keyword-only parameters of
    `other` that it does not name itself replace `rest`."""

    def decorate(init: F) -> F:
        signature = inspect.signature(init)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        names = {p.name for p in own}
        more = [p for p in parameters_of(other).values() if p.name not in names]
        added = [
            inspect.Parameter(p.name, inspect.Parameter.KEYWORD_ONLY, default=p.default, annotation=p.annotation)
            for p in more
        ]
        init.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        init.__annotations__ |= {p.name: p.annotation for p in more}
        return init

    return decorate


def type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(type_name(a) for a in get_args(annotation))
    if get_origin(annotation) is Literal:
        return " | ".join(repr(a) for a in get_args(annotation))
    if get_origin(annotation) is not None:
        return str(annotation).replace("typing.", "").replace("collections.abc.", "")
    return getattr(annotation, "__name__", str(annotation))


def check_value(value: Any, annotation: Any, *, key: str) -> Any:
    """`value` as the annotated type, or a `RegistryError` that names `key`. Only lossless conversions are made:
    int -> float, float text such as `1e-4` (which YAML 1.1 reads as text), list -> tuple."""
    try:
        return _checked(value, annotation, key)
    except _Mismatch:
        text = isinstance(value, (bool, int, float)) and str in (annotation, *get_args(annotation))
        remedy = "; put it in quotes" if text else ""
        raise RegistryError(f"expected {type_name(annotation)}, got {value!r}{remedy}", key=key) from None


class _Mismatch(Exception):
    pass


def _checked(value: Any, annotation: Any, key: str) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any or annotation is object:
        return value
    if origin in (Union, types.UnionType):
        return _union(value, arguments, key)
    if origin is Literal:
        return _require(value, any(value == a and type(value) is type(a) for a in arguments))
    if annotation is None or annotation is type(None):
        return _require(value, value is None)
    if annotation is float:
        return _float(value)
    if annotation in (int, bool, str):
        return _require(value, type(value) is annotation)
    if origin in (list, tuple, Sequence):
        return _sequence(value, origin, arguments, key)
    if annotation is dict or origin in (dict, Mapping):
        _require(value, isinstance(value, Mapping))
        return {k: _checked(v, arguments[1], key) if arguments else v for k, v in value.items()}
    if annotation in (list, tuple):
        return annotation(_require(value, isinstance(value, (list, tuple))))
    return _require(value, inspect.isclass(annotation) and isinstance(value, annotation))


def _require(value: Any, fits: bool) -> Any:
    if not fits:
        raise _Mismatch
    return value


def _union(value: Any, options: tuple[Any, ...], key: str) -> Any:
    for option in sorted(options, key=lambda o: type(value) is not o):  # an exact type first: 3 stays an int
        try:
            return _checked(value, option, key)
        except _Mismatch:
            continue
    raise _Mismatch


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _Mismatch
    try:
        return float(value)
    except ValueError:
        raise _Mismatch from None


def _sequence(value: Any, origin: Any, arguments: tuple[Any, ...], key: str) -> Any:
    _require(value, isinstance(value, (list, tuple)))
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        _require(value, len(value) == len(arguments))
        return tuple(_checked(v, a, key) for v, a in zip(value, arguments, strict=True))
    items = [_checked(v, arguments[0], key) if arguments else v for v in value]
    return tuple(items) if origin is tuple else items
