"""The report on disk. It is written anew, atomically, after every figure, so that whatever was measured survives any end."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from sunlab.files import write_text


@dataclass(frozen=True)
class Goal:
    """A bound of a figure.

    Attributes:
        limit: of the value.
        at_least: whether the value shall be this or more; else this or less.
    """

    limit: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}"


@dataclass
class Entry:
    """A part of the report.

    Attributes:
        title: for people.
        state: waiting, running, done, or why it ended early.
        seconds: that it took.
        figures: each with name, value, unit, low, high, goal, met and note.
    """

    title: str
    state: str = "waiting"
    seconds: float = 0.0
    figures: list[dict[str, Any]] = field(default_factory=list)


class Report:
    """`report.json` and `report.md` in a folder. One process writes at a time: a part, or the parent between two.

    Args:
        folder: created where it is missing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / "report.json"
        folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[str, Any]:
        if not self.file.is_file():
            return {"machine": {}, "parts": {}}
        found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        return found

    def start(self, titles: dict[str, str], **machine: str) -> None:
        """Begin a new report in which every part waits."""
        self._write({"machine": machine, "parts": {name: asdict(Entry(title)) for name, title in titles.items()}})

    def describe(self, **machine: str) -> None:
        """Add facts of the machine."""
        tree = self.read()
        tree["machine"] |= machine
        self._write(tree)

    def set_state(self, part: str, state: str, seconds: float = 0.0) -> None:
        tree = self.read()
        tree["parts"][part] |= {"state": state, "seconds": round(seconds, 1)}
        self._write(tree)

    def add(
        self, part: str, name: str, values: float | Sequence[float], unit: str, goal: Goal | None = None, note: str = ""
    ) -> None:
        """Add a figure, in place of one of this name if there is one.

        Args:
            values: the value, or one a round: the figure is their median.
            unit: of the value; empty for ratios and counts.
            goal: printed beside it, with whether it is met.
            note: a few words on how it was measured, or why it could not be.
        """
        each = [float(values)] if isinstance(values, int | float) else [float(v) for v in values]
        value = median(each)
        figure: dict[str, Any] = {"name": name, "value": value, "unit": unit, "low": min(each), "high": max(each)}
        figure |= {"goal": None if goal is None else str(goal), "met": None if goal is None else goal.met(value)}
        tree = self.read()
        entry = tree["parts"][part]
        entry["figures"] = [other for other in entry["figures"] if other["name"] != name] + [{**figure, "note": note}]
        self._write(tree)

    def _write(self, tree: dict[str, Any]) -> None:
        write_text(self.file, json.dumps(tree, indent=1) + "\n")
        write_text(self.folder / "report.md", "\n".join(markdown(tree)) + "\n")


def markdown(tree: dict[str, Any]) -> Iterator[str]:
    """The lines of report.md: the goals first, then every part."""
    yield "# GPU report\n"
    yield from (f"- {name}: {value}" for name, value in tree["machine"].items())
    aimed = [figure for part in tree["parts"].values() for figure in part["figures"] if figure["goal"]]
    if aimed:
        yield "\n## Goals\n\n| | value | goal | |\n|---|---|---|---|"
        for figure in aimed:
            outcome = "met" if figure["met"] else "**missed**"
            yield f"| {figure['name']} | {shown(figure)} | {figure['goal']} | {outcome} |"
    for name, part in tree["parts"].items():
        yield f"\n## {part['title']}\n\nPart `{name}`: {part['state']}, {part['seconds']:g} s."
        if part["figures"]:
            yield "\n| | value | |\n|---|---|---|"
            for figure in part["figures"]:
                yield f"| {figure['name']} | {shown(figure)} | {figure['note']} |"


def shown(figure: dict[str, Any]) -> str:
    """Value and unit, and the range over the rounds where they differ."""
    unit = f" {figure['unit']}" if figure["unit"] else ""
    text = f"{figure['value']:.4g}{unit}"
    return text if figure["low"] == figure["high"] else f"{text} ({figure['low']:.4g} to {figure['high']:.4g})"
