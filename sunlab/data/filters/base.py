"""The contract of a filter, and counts of what filters drop."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from registry import Registry
from sunlab.data.fields import number
from sunlab.errors import ConfigError, DataError

Missing = Literal["keep", "drop", "error"]


@dataclass(frozen=True)
class Facts:
    """What is known of a sample before its picture is decoded.

    Attributes:
        key: of the sample.
        caption: its caption; None where it has none.
        record: the json beside it.
        picture: width and height of the picture as it is shown (EXIF orientation applied), where `Filter.picture` says
            that they are needed; None: there is no picture that can be opened.
    """

    key: str
    caption: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    picture: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[float, float] | None:
        """Width and height: the original's by the json, turned as the picture is, else the picture's own."""
        width, height = number(self.record, "width"), number(self.record, "height")
        if width is None or height is None:
            return self.picture
        turned = self.picture is not None and (width - height) * (self.picture[0] - self.picture[1]) < 0
        return (height, width) if turned else (width, height)


class Filter(ABC):
    """Keeps a sample or drops it, by one value.

    Args:
        missing: what becomes of a sample that has no such value: keep it, drop it, or stop. It has no default, so that it
            is decided by who trains.
    """

    picture: ClassVar[bool] = False  # whether the picture's size is looked at, so that its header must be read

    def __init__(self, *, missing: Missing):
        self.missing = missing

    @abstractmethod
    def value(self, facts: Facts) -> Any:
        """What is looked at; None where the sample does not say."""

    @abstractmethod
    def keeps(self, value: Any) -> bool:
        """Whether a sample with this value is trained on."""


class Range(Filter):
    """A number that must lie in a range, both ends included."""

    meaning: ClassVar[str]  # of the field, by default

    def __init__(self, *, min: float | None, max: float | None, missing: Missing):
        super().__init__(missing=missing)
        if (min is None and max is None) or (min is not None and max is not None and min > max):
            raise ConfigError(f"a filter's range from {min} to {max} is none: give min, max, or both in order")
        self.min, self.max = min, max

    def value(self, facts: Facts) -> Any:
        return number(facts.record, self.meaning)

    def keeps(self, value: Any) -> bool:
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


PROBES = (250, 4000)  # samples that are filtered first; the second number if none of the first is kept
FILTERS: Registry[Filter] = Registry(
    "filter", base=Filter, entry_points="sunlab.filters", components=("sunlab.data.filters.fields",)
)
Named = Sequence[tuple[str, Filter]]  # filters with a name each, for tables


@dataclass
class Dropped:
    """What filters did.

    Attributes:
        seen, kept: samples.
        bad: samples that could not be looked at.
        first: by filter, samples that it was the first to drop.
        alone: by filter, samples that it would drop were it the only one.
        missing: by filter, samples without its value, whatever became of them.
    """

    seen: int = 0
    kept: int = 0
    bad: int = 0
    first: Counter[str] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)

    def look(self, filters: Named, facts: Facts, where: str) -> bool:
        """Count a sample. Returns whether it is kept. Raises `DataError` for a missing value that is an error."""
        self.seen += 1
        culprit = None
        for name, one in filters:
            value = one.value(facts)
            if value is None:
                self.missing[name] += 1
                if one.missing == "error":
                    raise DataError(
                        f"{where}: sample {facts.key!r} has no value for the filter {name}, whose missing is 'error'; "
                        "set it to keep or drop"
                    )
            dropped = one.missing == "drop" if value is None else not one.keeps(value)
            self.alone[name] += dropped  # 0 too: a report lists every filter
            culprit = culprit or (name if dropped else None)
        if culprit is None:
            self.kept += 1
            return True
        self.first[culprit] += 1
        return False

    def to_dict(self) -> dict[str, Any]:
        """For JSON and checkpoints."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Dropped":
        values: dict[str, Any] = {name: Counter(v) if isinstance(v, dict) else v for name, v in given.items()}
        return cls(**values)

    def report(self) -> dict[str, Any]:
        """The table as JSON: samples seen, kept and bad, and by filter those that it dropped first, would drop alone, and
        found without a value."""
        counts = {"dropped": self.first, "dropped_alone": self.alone, "missing": self.missing}
        filters = {name: {column: count[name] for column, count in counts.items()} for name in self.alone}
        return {"seen": self.seen, "kept": self.kept, "bad": self.bad, "filters": filters}

    def __str__(self) -> str:
        first = ", ".join(f"{name} {count:,}" for name, count in self.first.most_common())
        return f"filters kept {self.kept:,} of {self.seen:,} samples" + (f"; dropped first by {first}" if first else "")

    def emptied(self) -> "Dropped":
        """What was counted; this one begins anew."""
        found = Dropped(**vars(self))
        vars(self).update(vars(Dropped()))
        return found

    def add(self, other: "Dropped") -> None:
        for name, count in vars(other).items():
            mine = getattr(self, name)
            if isinstance(count, Counter):
                mine.update(count)  # `+` would leave out counts of 0
            else:
                setattr(self, name, mine + count)

    def table(self, filters: Named) -> str:
        rows: list[tuple[str, ...]] = [("filter", "dropped", "alone", "missing")]
        rows += [(name, *(f"{c[name]:,}" for c in (self.first, self.alone, self.missing))) for name, _ in filters]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [f"{row[0]:<{widths[0]}}" + "".join(f"{row[i]:>{widths[i] + 2}}" for i in (1, 2, 3)) for row in rows]
        bad = f"; {self.bad:,} more are bad" if self.bad else ""
        return "\n".join([*lines, f"{self.kept:,} of {self.seen:,} samples kept{bad}"])
