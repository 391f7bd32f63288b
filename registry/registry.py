"""`Registry[T]`: one table of named components of a kind."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, TypeVar

from registry.errors import RegistryError, suggestion
from registry.parameters import Parameter, check_value, parameters_of
from registry.plugins import load_entry_points

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered component: its factory, where it was written, and its parameters."""

    name: str
    factory: type[T]
    parameters: dict[str, Parameter] = field(repr=False)
    where: str

    @property
    def summary(self) -> str:
        """The first line of the component's docstring."""
        return (inspect.getdoc(self.factory) or "").partition("\n")[0]


@dataclass(frozen=True)
class Spec:
    """A checked request for a component: its name and all its parameters, defaults filled in."""

    name: str
    parameters: Mapping[str, Any]


class Registry(Generic[T]):
    """Components of one kind, found by name.

    Args:
        kind: what a component is called in messages ("loss").
        base: the contract that every class registered here must derive from.
        entry_points: the entry-point group through which installed packages add components.
        components: modules that register the built-in components, imported when the registry is first asked for a name.
    """

    def __init__(self, kind: str, *, base: type, entry_points: str, components: Sequence[str] = ()):
        self.kind, self.base, self.entry_points = kind, base, entry_points
        self._components = list(components)
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator. A name registered twice with another object is an error that names both places."""

        def decorate(component: type[T]) -> type[T]:
            if not (inspect.isclass(component) and issubclass(component, self.base)):
                raise RegistryError(f"{self.kind} {name!r}: {component!r} does not derive from {self.base.__name__}")
            where = _where(component)
            known = self._entries.get(name)
            if known is not None and known.factory is not component and known.where != where:
                raise RegistryError(f"{self.kind} {name!r} is registered twice: at {known.where} and at {where}")
            self._entries[name] = Entry(name, component, parameters_of(component), where)
            return component

        return decorate

    def names(self) -> list[str]:
        while self._components:
            import_module(self._components[0])
            del self._components[0]  # only now: a failed import is tried, and fails, again
        load_entry_points(self.entry_points)
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def get(self, name: str, *, key: str | None = None) -> Entry[T]:
        """The entry of `name`. Raises `RegistryError` with the nearest and all known names."""
        names = self.names()
        if name not in self._entries:
            raise RegistryError(f"no {self.kind} {name!r}; {suggestion(str(name), names)}", key=key)
        return self._entries[name]

    def check(self, request: Any, *, key: str | None = None) -> Spec:
        """A component's name and parameters, checked without building it.

        Args:
            request: `"msc"`, or a mapping with `name` and parameters, or a `Spec`.
            key: the configuration key of the request, for messages.
        """
        if isinstance(request, Spec):
            return request
        key = key or self.kind
        if isinstance(request, str):
            request = {"name": request}
        if not isinstance(request, Mapping) or not isinstance(request.get("name"), str):
            raise RegistryError(f"expected a {self.kind}'s name, or a mapping with 'name', got {request!r}", key=key)
        entry = self.get(request["name"], key=f"{key}.name")
        given = {k: v for k, v in request.items() if k != "name"}
        values = {}
        for name, value in given.items():
            if name not in entry.parameters:
                known = suggestion(str(name), entry.parameters, noun=f"{entry.name} takes")
                raise RegistryError(f"no such parameter of {self.kind} {entry.name!r}; {known}", key=f"{key}.{name}")
            values[name] = check_value(value, entry.parameters[name].annotation, key=f"{key}.{name}")
        for parameter in entry.parameters.values():
            if parameter.name in values:
                continue
            if parameter.required:
                raise RegistryError(f"{self.kind} {entry.name!r} needs it: {parameter}", key=f"{key}.{parameter.name}")
            values[parameter.name] = parameter.default
        return Spec(entry.name, values)

    def build(self, request: Any, *runtime: Any, key: str | None = None) -> T:
        """The component: runtime objects are positional, configuration is keyword-only. A `ValueError` raised by its
        constructor means that a parameter is out of range."""
        spec = self.check(request, key=key)
        factory: Callable[..., T] = self.get(spec.name).factory
        try:
            return factory(*runtime, **spec.parameters)
        except RegistryError:
            raise
        except ValueError as error:
            raise RegistryError(f"{self.kind} {spec.name!r}: {error}", key=key) from error


def _where(component: type) -> str:
    try:
        return f"{inspect.getsourcefile(component)}:{inspect.getsourcelines(component)[1]}"
    except (OSError, TypeError):
        return f"{component.__module__}.{component.__qualname__}"
