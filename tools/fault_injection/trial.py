"""A trial: the fault, the expected result and the observed result."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fault_injection.world import World


@dataclass
class Seen:
    """What a trial saw.

    Attributes:
        cases: what was checked, and whether it was so.
        counts: numbers worth a place in the report.
    """

    cases: list[tuple[str, bool]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    def check(self, right: bool, what: str) -> bool:
        self.cases.append((what, bool(right)))
        return bool(right)

    def count(self, **numbers: Any) -> None:
        self.counts.update(numbers)


@dataclass(frozen=True)
class Trial:
    """One thing that goes wrong.

    Attributes:
        family: load, kills, bytes, or faults.
        name: short; a fault begins with its number in the list of twenty.
        expected: what must come of it.
        do: does it.
    """

    family: str
    name: str
    expected: str
    do: Callable[["World", Seen], None]


@dataclass(frozen=True)
class Result:
    """A trial's outcome; `wrong` names the cases that were not as expected."""

    family: str
    name: str
    expected: str
    passed: bool
    cases: int
    wrong: tuple[str, ...]
    counts: Mapping[str, Any]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


TRIALS: list[Trial] = []


def trial(family: str, name: str, expected: str) -> Callable[[Callable[["World", Seen], None]], Callable]:
    """Register a trial; the files of `fault_injection.families` are imported in the order of the report."""

    def register(do: Callable[["World", Seen], None]) -> Callable:
        TRIALS.append(Trial(family, name, expected, do))
        return do

    return register


def perform(one: Trial, world: "World") -> Result:
    """Do a trial. What it did not foresee is a failure of it, with the traceback's end, and does not end the program."""
    seen, begun = Seen(), time.monotonic()
    try:
        one.do(world, seen)
        if not seen.cases:
            seen.check(False, "nothing was checked")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        seen.check(False, f"{type(error).__name__}: {error} ({last.filename.rpartition('/')[2]}:{last.lineno})")
    wrong = tuple(what for what, right in seen.cases if not right)
    seconds = round(time.monotonic() - begun, 2)
    return Result(one.family, one.name, one.expected, not wrong, len(seen.cases), wrong, dict(seen.counts), seconds)
