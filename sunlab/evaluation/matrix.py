"""The universality matrix: every method at every number of steps on every base, and where it falls below its bar; over the
strength of each fine-tune."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite, isnan

from matplotlib.figure import Figure
from torch import Tensor

from registry import suggestion
from sunlab.errors import ConfigError, DataError
from sunlab.evaluation.measures import Foreseen, measures_of
from sunlab.evaluation.report import Section, png, title
from sunlab.evaluation.rows import Result, Row


def strength(origin: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> float:
    """|delta theta| / |theta|: the norm of all weights' changes over the norm of the origin's, in float64.

    Args:
        origin, tuned: state dicts of two U-Nets of one architecture.

    Raises:
        DataError: the architectures differ.
    """
    if origin.keys() != tuned.keys() or any(origin[k].shape != tuned[k].shape for k in origin):
        raise DataError("the two U-Nets differ in architecture, so the one is no fine-tune of the other")
    moved = sum(float((tuned[k].double() - origin[k].double()).square().sum()) for k in origin)
    whole = sum(float(value.double().square().sum()) for value in origin.values())
    return (moved / whole) ** 0.5


TEXT = (
    "Distance to each base's own teacher, as a share of the distance between two of the teacher's own pictures of other "
    "seeds, ± half of a 95 % interval from disjoint subsets; N = {pairs} pairs a cell. In brackets: the share of the pairs "
    "that are nearer to the teacher than those of guided sampling at equal NFE. The line of strength gives "
    "|Δθ| / |θ| of each base's U-Net against {origin}'s."
)


@dataclass(frozen=True)
class Crossed:
    """One line of the matrix: a row's name, and what it crosses."""

    row: str
    method: str
    steps: int


@dataclass(frozen=True)
class Bar:
    """What cells must reach. Patterns are the shell's.

    Attributes:
        method, base: patterns of the cells that it is for.
        steps: likewise; None: any.
        measure: a name of `measures_of`.
        at_most, at_least: the bar; None: none on that side.
    """

    method: str
    base: str
    steps: int | None
    measure: str
    at_most: float | None
    at_least: float | None

    def covers(self, line: Crossed, base: str) -> bool:
        right = fnmatchcase(line.method, self.method) and fnmatchcase(base, self.base)
        return right and self.steps in (None, line.steps)

    @property
    def text(self) -> str:
        sides = {"at least": self.at_least, "at most": self.at_most}
        return ", ".join(f"{side} {bound:g}" for side, bound in sides.items() if bound is not None)

    def broken(self, value: float) -> bool:
        """Whether a value misses it; one that is not known does."""
        low = self.at_least is not None and value < self.at_least
        return isnan(value) or low or (self.at_most is not None and value > self.at_most)


def require_cells(bars: Sequence[Bar], lines: Sequence[Crossed], bases: Sequence[str]) -> None:
    """Raise `ConfigError` for a bar that no cell of the matrix can break."""
    for number, bar in enumerate(bars):
        if not any(bar.covers(line, base) for line in lines for base in bases):
            methods = ", ".join(dict.fromkeys(line.method for line in lines))
            raise ConfigError(
                f"matrix.bars.{number}: no cell has method {bar.method!r}, base {bar.base!r} and steps {bar.steps}; "
                f"methods: {methods}; bases: {', '.join(bases)}"
            )


def require_measures(bars: Sequence[Bar], measure: str, known: Foreseen) -> None:
    """Raise `ConfigError` for a bar's measure, or the matrix's own, that will not be measured."""
    if known.whole and measure not in known.paired:
        there = ", ".join(sorted(known.paired)) or "none"
        raise ConfigError(f"matrix.measure: {measure!r} is no paired distance of evaluate.metrics; there are: {there}")
    for number, bar in enumerate(bars):
        if not known.knows(bar.measure):
            names = suggestion(bar.measure, known.all, noun="there are")
            raise ConfigError(f"matrix.bars.{number}.measure: {bar.measure!r} will not be measured; {names}")


def broken_bars(bars: Sequence[Bar], lines: Sequence[Crossed], results: Sequence[Result]) -> list[str]:
    """What each cell that misses its bar says.

    Raises:
        ConfigError: a bar's measure is none that was measured.
    """
    found = []
    for number, bar in enumerate(bars):
        for result in results:
            rows = {row.name: row for row in result.rows}
            for line in (line for line in lines if bar.covers(line, result.base)):
                measures = measures_of(rows[line.row])
                if bar.measure not in measures:
                    known = ", ".join(measures)
                    raise ConfigError(f"matrix.bars.{number}.measure: {bar.measure!r} was not measured; there are: {known}")
                if bar.broken(measures[bar.measure]):
                    wanted = [
                        f"{w} {b:g}" for w, b in (("at most", bar.at_most), ("at least", bar.at_least)) if b is not None
                    ]
                    cell = f"{line.row} on {result.base}"
                    found.append(f"{cell}: {bar.measure} is {measures[bar.measure]:.4g}, the bar is {', '.join(wanted)}")
    return found


def universality(
    results: Sequence[Result],
    lines: Sequence[Crossed],
    strengths: Mapping[str, float],
    *,
    measure: str,
    origin: str,
    pairs: int,
    extractor: str,
) -> Section:
    """The matrix of one paired distance, and its curve over the strength of the fine-tune.

    Args:
        strengths: |delta theta| / |theta| by base.
    """
    rows = [{row.name: row for row in result.rows} for result in results]
    table = [["", *(result.base for result in results)]]
    table.append(["strength, |Δθ| / |θ|", *(f"{strengths[result.base]:.4f}" for result in results)])
    table += [[line.row, *(_cell(by_name[line.row], measure) for by_name in rows)] for line in lines]
    cells = [
        {"base": r.base, "method": line.method, "steps": line.steps, "pairs": pairs, **measures_of(by_name[line.row])}
        for r, by_name in zip(results, rows, strict=True)
        for line in lines
    ]
    record = {"measure": measure, "origin": origin, "strengths": dict(strengths), "cells": cells}
    text = TEXT.format(pairs=pairs, origin=origin)
    figures = [_curve(results, lines, strengths, measure, extractor)] if len(results) > 1 else []
    return Section("matrix", f"Universality: {title(measure, extractor)}", text, table, record, figures)


def _cell(row: Row, measure: str) -> str:
    value = row.values.get(measure)
    if value is None or not value.paired:
        raise ConfigError(f"matrix.measure: {measure!r} is no paired distance of evaluate.metrics")
    error = value.error * value.share / value.value if value.value else float("nan")
    text = f"{value.share:.1%}" + (f" ± {error:.1%}" if isfinite(error) else "")
    return text + (f" ({row.against[measure].nearer:.0%} nearer)" if measure in row.against else "")


def _curve(
    results: Sequence[Result], lines: Sequence[Crossed], strengths: Mapping[str, float], measure: str, extractor: str
) -> bytes:
    """Each line of the matrix over the strength of the fine-tunes; guided sampling dashed."""
    order = sorted(results, key=lambda result: strengths[result.base])
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for line in lines:
        own = [next(row for row in result.rows if row.name == line.row) for result in order]
        values = [row.values[measure] for row in own]
        heights = [value.share for value in values]
        errors = [v.error * v.share / v.value if v.value and isfinite(v.error) else 0.0 for v in values]
        style = "--" if own[0].guided else "-"
        axes.errorbar([strengths[r.base] for r in order], heights, yerr=errors, fmt=f"o{style}", capsize=3, label=line.row)
    axes.set(xlabel="strength of the fine-tune, |Δθ| / |θ|", ylim=(0, None))
    axes.set_ylabel(f"{title(measure, extractor)}, share of other seeds")
    axes.legend(fontsize=8)
    return png(figure)
