"""The ledger: which samples each optimizer step trained on, by rank, committed with the checkpoint.

`ledger.jsonl` in the run's folder has one line an optimizer step, in the order of training:

    {"step": 7, "epoch": 1, "ranks": [["00012", "00031"], ["00007", "00044"]]}

`step` counts from 0 over all epochs; `ranks[r]` holds the keys that rank r trained on, over all its micro-batches. A sample
that stands in for a bad one (`on_error: quarantine`) is written "00013 (for 00012)".

How it is kept true through a crash: steps are noted in memory and appended, fsynced, just *before* a checkpoint is written;
the checkpoint holds the file's length at that moment. A resumed run first cuts the file to the length that its checkpoint
says. So the lines that a checkpoint vouches for are exactly the steps whose work it contains, whichever checkpoint (the
newest, or an older one) a run goes on from, and on however many ranks.

    audit(path)            what one ledger says: steps missing or repeated, samples repeated in an epoch
    steps_of(path)         step -> the keys of all its ranks, sorted: equal for the same run on other ranks and workers
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sunlab.errors import DataError, StorageError

NAME = "ledger.jsonl"


@dataclass(frozen=True)
class Entry:
    """One optimizer step: `ranks[r]` are the keys that rank r trained on."""

    step: int
    epoch: int
    ranks: tuple[tuple[str, ...], ...]

    def line(self) -> bytes:
        return json.dumps({"step": self.step, "epoch": self.epoch, "ranks": self.ranks}, ensure_ascii=False).encode() + b"\n"


class LedgerFile:
    """The file, written by one rank.

    Args:
        path: of the ledger.
        length: bytes that belong to this run, as its checkpoint says; what follows them is cut off at the first append.
            0 starts a new ledger, and so does a folder without one.
    """

    def __init__(self, path: Path, length: int = 0):
        self.path, self.length = path, length
        self._begun = False

    def append(self, entries: Sequence[Entry]) -> int:
        """Write them to the disk. Returns the file's length, for the checkpoint.

        Raises:
            DataError: the file is shorter than the checkpoint says: lines of steps that were trained on are gone.
            StorageError: it cannot be written.
        """
        try:
            if not self._begun:
                self._cut()
            with self.path.open("r+b") as file:
                file.truncate(self.length)  # what a failed append may have left
                file.seek(self.length)
                file.write(b"".join(entry.line() for entry in entries))
                file.flush()
                os.fsync(file.fileno())
                self.length = file.tell()
        except OSError as error:
            raise StorageError(f"{self.path}: the ledger cannot be written: {error}") from error
        return self.length

    def _cut(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.is_file():
            self.path.touch()
            self.length = 0  # resumed in another folder: the ledger begins with the step that comes next
        size = self.path.stat().st_size
        if size < self.length:
            raise DataError(
                f"{self.path}: {size:,} bytes, but the checkpoint vouches for {self.length:,}: bring the run's ledger back, "
                "or resume with run.ledger=false"
            )
        self._begun = True


@dataclass
class Audit:
    """What a ledger says.

    Attributes:
        first, last: steps.
        steps, samples: lines, and keys in them.
        missing: steps between the first and last without a line.
        repeated_steps: steps with more than one line.
        repeated: (epoch, key) of samples trained on twice in an epoch.
        stand_ins: samples in the place of quarantined ones.
        readers: numbers of ranks that the run has had.
    """

    first: int = 0
    last: int = -1
    steps: int = 0
    samples: int = 0
    missing: list[int] = field(default_factory=list)
    repeated_steps: list[int] = field(default_factory=list)
    repeated: list[tuple[int, str]] = field(default_factory=list)
    stand_ins: int = 0
    readers: set[int] = field(default_factory=set)

    @property
    def exact(self) -> bool:
        """Nothing lost, nothing repeated."""
        return not (self.missing or self.repeated_steps or self.repeated)


def read(path: Path) -> Iterator[Entry]:
    """The entries of a ledger. Raises `DataError` where a line is none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield _entry(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}, line {number}: not an entry of a ledger ({error!r})") from None


def _entry(value: Any) -> Entry:
    return Entry(int(value["step"]), int(value["epoch"]), tuple(tuple(map(str, keys)) for keys in value["ranks"]))


def audit(path: Path) -> Audit:
    """Read a ledger from its first step to its last."""
    found, steps = Audit(), Counter[int]()
    seen: dict[int, Counter[str]] = {}
    for entry in read(path):
        keys = [key for rank in entry.ranks for key in rank]
        steps[entry.step] += 1
        seen.setdefault(entry.epoch, Counter()).update(keys)
        found.samples += len(keys)
        found.stand_ins += sum(" (for " in key for key in keys)
        found.readers.add(len(entry.ranks))
    found.steps = steps.total()
    found.first, found.last = min(steps, default=0), max(steps, default=-1)
    found.missing = [step for step in range(found.first, found.last + 1) if step not in steps]
    found.repeated_steps = sorted(step for step, times in steps.items() if times > 1)
    found.repeated = [(epoch, key) for epoch, keys in seen.items() for key, times in keys.items() if times > 1]
    return found


def steps_of(path: Path) -> dict[int, list[str]]:
    """Step -> the keys of all ranks, sorted. Of a step with several lines the last counts."""
    return {entry.step: sorted(key for rank in entry.ranks for key in rank) for entry in read(path)}
