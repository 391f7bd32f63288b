"""Plain values -> the dataclasses of the schema, every key and type checked, what costs most to check last."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any, Literal, get_args, get_origin

from registry import RegistryError, check_value, suggestion
from sunlab.config.consistency import disagreements
from sunlab.config.schema import Config
from sunlab.config.shape import ROOT, Shape, places_of
from sunlab.config.trainer import trainer_problems
from sunlab.registries import KINDS, registry_of
from sunlab.renamed import COMPONENTS, KEYS

SLOW = frozenset({"trainer", "callbacks", "loggers", "metrics", "tasks"})
"""What needs Lightning or torchmetrics to be checked, which take seconds to import."""
STAGES: tuple[frozenset[str], ...] = (frozenset(), frozenset(KINDS) - SLOW, frozenset(KINDS) | SLOW)
"""Kinds of components that are looked at, one stage after the other: none, those that need torch, all."""


class Check:
    """Checks one tree: its keys and plain values, then the components, then what takes seconds to import. All problems of
    a stage are reported at once, before the next one starts.

    Args:
        origin: dotted path -> where its value came from, for messages.

    Attributes:
        problems: one message each.
        defaulted: paths of component parameters that nobody gave.
    """

    def __init__(self, origin: Callable[[str], str]):
        self.origin = origin
        self.problems: list[str] = []
        self.defaulted: list[str] = []
        self._looked_at = STAGES[0]

    def __call__(self, values: Mapping[str, Any]) -> Config | None:
        """The configuration, or None where there are problems."""
        checked: Config | None = None
        for self._looked_at in STAGES:
            self.defaulted = []
            checked = self._section(values, ROOT, "")
            if checked is not None and self._looked_at is STAGES[0]:
                self._report(disagreements(checked))
            if self.problems:
                return None
        assert checked is not None
        self._report(registry_of("tasks").build(checked.task, key="task").problems(checked))
        return None if self.problems else checked

    def _report(self, found: Iterable[tuple[str, str]]) -> None:
        for key, message in found:
            self.problem(key, message)

    def problem(self, key: str, message: str, remedy: str = "") -> None:
        line = f"{self.origin(key)}: {key}: {message}"
        self.problems.append(f"{line}\n  {remedy}" if remedy else line)

    def _check(self, value: Any, shape: Shape, here: str) -> Any:
        if shape.section:
            return self._section(value, shape, here)
        if shape.item:
            return self._list(value, shape.item, here)
        if shape.kind:
            return None if value is None and shape.optional else self._component(value, shape.kind, here)
        return self._value(value, shape.annotation, here)

    def _section(self, values: Any, shape: Shape, path: str) -> Any:
        if not isinstance(values, Mapping):
            return self.problem(path, f"expected a section with {', '.join(shape.fields)}, got {values!r}")
        checked = {}
        for key, value in values.items():
            here = f"{path}.{key}" if path else str(key)
            if new := KEYS.get(here):
                self.problem(here, f"is now {new}")
            elif key in shape.fields:
                checked[key] = self._check(value, shape.fields[key], here)
            else:
                self.problem(here, f"no such key; {_meant(str(key), shape, path)}")
        return None if self.problems else shape.annotation(**checked)

    def _list(self, value: Any, item: Shape, here: str) -> Any:
        if item.section and isinstance(value, list) and all(isinstance(given, Mapping) for given in value):
            value = [{**asdict(item.annotation()), **given} for given in value]
        elif item.section or not isinstance(value, list):
            what = item.kind or f"sections with {', '.join(item.fields)}"
            return self.problem(here, f"expected a list of {what}, got {value!r}")
        return [self._check(given, item, f"{here}.{index}") for index, given in enumerate(value)]

    def _component(self, value: Any, kind: str, here: str) -> Any:
        if kind not in self._looked_at:
            return value
        if isinstance(value, str):
            value = {"name": value}
        try:
            spec = registry_of(kind).check(value, key=here)
        except RegistryError as error:
            name = value.get("name") if isinstance(value, Mapping) else None
            if new := COMPONENTS.get((kind, str(name))):
                return self.problem(f"{here}.name", f"{name!r} is now {new}")
            name = None if error.key == f"{here}.name" else name
            subject = f"{kind} {name}" if name else kind
            key = error.key or here
            return self.problem(key, str(error).removeprefix(f"{key}: "), f"`sunlab list {subject}` shows what there is")
        self.defaulted += [f"{here}.{name}" for name in spec.parameters if name not in value]
        return {"name": spec.name, **spec.parameters}

    def _value(self, value: Any, annotation: Any, here: str) -> Any:
        if here == "trainer" and isinstance(value, Mapping):
            for key, message in trainer_problems(value) if here in self._looked_at else ():
                self.problem(f"trainer.{key}", message)
            return dict(value)
        try:
            checked = check_value(value, annotation, key=here)
            infinite = [number for number in _floats(checked) if not isfinite(number)]
            return self.problem(here, f"expected a finite number, got {infinite[0]}") if infinite else checked
        except RegistryError as error:
            message = str(error).removeprefix(f"{here}: ")
            if get_origin(annotation) is Literal and isinstance(value, str):
                message = f"no such value {value!r}; {suggestion(value, map(str, get_args(annotation)))}"
            return self.problem(here, message)


def _meant(key: str, shape: Shape, path: str) -> str:
    """What a key may have been meant for: one of that name in another section, or a name near it in this one."""
    noun = f"{path or 'a configuration'} takes"
    if elsewhere := places_of(key):
        return f"did you mean {' or '.join(map(repr, elsewhere))}? {suggestion('', shape.fields, noun=noun)}"
    return suggestion(key, shape.fields, noun=noun)


def _floats(value: Any) -> Iterator[float]:
    """The numbers of a plain value, or of a list of them."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, float):
            yield item
