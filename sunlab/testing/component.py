"""The contract of every component, of any kind."""

import inspect
from typing import Any, ClassVar

from registry import Entry, Registry, check_value
from sunlab.registries import registry_of


class RegisteredContract:
    """What a registered class promises of its documentation and its configuration.

    Attributes:
        kind: the kind of component, as in `sunlab.registries.KINDS`.
        component: the component under test, as in a configuration: a name, or a mapping with `name` and parameters.
    """

    kind: ClassVar[str]
    component: ClassVar[Any]

    @property
    def registry(self) -> Registry[Any]:
        return registry_of(self.kind)

    @property
    def entry(self) -> Entry[Any]:
        return self.registry.get(self.registry.check(self.component).name)

    def test_defaults_are_of_the_declared_types(self) -> None:
        for parameter in self.entry.parameters.values():
            if not parameter.required:
                check_value(parameter.default, parameter.annotation, key=parameter.name)

    def test_it_has_a_summary_of_one_line(self) -> None:
        own = inspect.cleandoc(vars(self.entry.factory).get("__doc__") or "")
        first, _, rest = own.partition("\n")
        assert first, f"{self.entry.where}: the component needs a docstring of its own"
        assert first.endswith("."), f"{self.entry.where}: the first line must be a sentence, got {first!r}"
        assert not rest.partition("\n")[0].strip(), f"{self.entry.where}: the line after the first must be blank"

    def test_configuration_is_keyword_only(self) -> None:
        """A positional parameter with a default could never be set by a configuration."""
        for parameter in inspect.signature(self.entry.factory).parameters.values():
            positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            assert not (positional and parameter.default is not parameter.empty), parameter.name


class ComponentContract(RegisteredContract):
    """Base of the contracts of components that are built from their configuration, each build a new one."""

    def runtime(self) -> tuple[Any, ...]:
        """The positional arguments that a component of this kind is built with."""
        return ()

    def build(self, *runtime: Any) -> Any:
        """The component, from its defaults and `component`. Args: runtime, replaces `self.runtime()`."""
        return self.registry.build(self.component, *(runtime or self.runtime()))

    def test_it_builds(self) -> None:
        assert isinstance(self.build(), self.registry.base)

    def test_each_build_is_a_new_one(self) -> None:
        assert self.build() is not self.build()
