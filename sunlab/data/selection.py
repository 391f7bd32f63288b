"""Which samples of the shards are trained on: filters run over the json of all of them, once, before the first step.

The order of an epoch is then an order of the samples that are kept, so that resuming and equal steps are as exact with
filters as without.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sunlab.data.decode import facts_of
from sunlab.data.filters.base import Facts, Filter
from sunlab.data.manifest import Shard
from sunlab.data.opened import BadSample
from sunlab.data.remembered import Found, remembered
from sunlab.data.remote import Remote
from sunlab.data.scan import scan
from sunlab.data.tar import IMAGES
from sunlab.errors import DataError

Named = Sequence[tuple[str, Filter]]  # filters with a name each, for tables
PROBE_SHARDS = 8  # that are looked at first
PROBES = (250, 4000)  # samples of each; the second where a filter kept none of the first, which may be a rare one
TEXTS = ("txt", "json")


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
            if one.missing == "drop" if value is None else not one.keeps(value):
                self.alone[name] += 1
                culprit = culprit or name
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
        filters = {name: {column: count[name] for column, count in counts.items()} for name in self.alone | self.missing}
        return {"seen": self.seen, "kept": self.kept, "bad": self.bad, "filters": filters}

    def emptied(self) -> "Dropped":
        """What was counted; this one begins anew."""
        found = Dropped()
        found.add(self)
        self.seen = self.kept = self.bad = 0
        for counter in (self.first, self.alone, self.missing):
            counter.clear()
        return found

    def add(self, other: "Dropped") -> None:
        self.seen, self.kept, self.bad = self.seen + other.seen, self.kept + other.kept, self.bad + other.bad
        for mine, theirs in ((self.first, other.first), (self.alone, other.alone), (self.missing, other.missing)):
            mine.update(theirs)

    def table(self, filters: Named) -> str:
        rows: list[tuple[str, ...]] = [("filter", "dropped", "alone", "missing")]
        rows += [(name, *(f"{c[name]:,}" for c in (self.first, self.alone, self.missing))) for name, _ in filters]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [f"{row[0]:<{widths[0]}}" + "".join(f"{row[i]:>{widths[i] + 2}}" for i in (1, 2, 3)) for row in rows]
        bad = f"; {self.bad:,} more are bad" if self.bad else ""
        return "\n".join([*lines, f"{self.kept:,} of {self.seen:,} samples kept{bad}"])


def select(
    shards: Sequence[Shard], filters: Named, remote: Remote, folder: Path, *, lenient: bool = False
) -> tuple[list[Shard], Dropped]:
    """The shards with the numbers of their kept samples.

    Some samples are looked at first, so that filters that drop everything are told at once.

    Args:
        shards: whole.
        filters: with a name each.
        folder: where the result is remembered.
        lenient: bad samples are kept, and found to be bad when their turn comes; else the first one is raised.

    Raises:
        DataError: nothing is kept, with the table of what each filter dropped; a bad sample.
    """
    some = random.Random(0).sample(list(shards), min(PROBE_SHARDS, len(shards)))
    for most in PROBES:
        probe = Dropped()
        for _ in (kept for shard in some for kept in look(shard, filters, remote, probe, most, lenient=lenient)):
            pass
        if probe.kept:
            break
    else:
        raise DataError(f"the filters drop every sample that was looked at:\n{probe.table(filters)}")
    found = remembered(folder, _name(shards, filters), lambda: _look_at_all(shards, filters, remote, lenient))
    numbers = np.split(found.arrays["numbers"], found.arrays["ends"][:-1])
    return [replace(shard, kept=kept) for shard, kept in zip(shards, numbers, strict=True)], Dropped.from_dict(found.notes)


def look(
    shard: Shard, filters: Named, remote: Remote, dropped: Dropped, most: int | None = None, *, lenient: bool = False
) -> Iterator[bool]:
    """Whether each of a whole shard's samples, or of the first `most`, is kept."""
    picture = any(one.picture for _, one in filters)
    for _, raw in islice(scan(shard, remote, (*TEXTS, *IMAGES) if picture else TEXTS), most):
        if not isinstance(raw, BadSample):
            yield dropped.look(filters, facts_of(raw, picture=picture), shard.url)
        elif lenient:
            dropped.bad += 1
            yield True
        else:
            raise raw


def _look_at_all(shards: Sequence[Shard], filters: Named, remote: Remote, lenient: bool) -> Found:
    dropped = Dropped()
    looks = (look(shard, filters, remote, dropped, lenient=lenient) for shard in shards)
    kept = [np.flatnonzero(np.fromiter(looked, bool)) for looked in looks]
    ends = np.cumsum([len(numbers) for numbers in kept])
    return Found({"numbers": np.concatenate(kept), "ends": ends}, dropped.to_dict())


def _name(shards: Sequence[Shard], filters: Named) -> str:
    """Of the contents where they are known, else of the files as they are."""
    told = [(name, type(one).__qualname__, sorted(vars(one).items(), key=str)) for name, one in filters]
    return sha256(repr(([shard.identity() for shard in shards], told)).encode()).hexdigest()[:32]
