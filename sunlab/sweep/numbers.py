"""The numbers of what is done, gathered over training seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import Any

from sunlab.evaluation.statistics import half_width
from sunlab.files import read_json
from sunlab.sweep.folder import run_folder
from sunlab.sweep.grid import Run
from sunlab.sweep.record import RunState
from sunlab.sweep.survey import Standing

COST = {"equivalents": "training, NFE", "seconds": "training, s", "stored": "NFE of stored trajectories"}


@dataclass(frozen=True)
class Number:
    """A quantity over training seeds.

    Attributes:
        mean: of the seeds' values.
        error: half of the 95 % interval of that mean; of one seed, that of its own pairs; NaN where there is neither.
        over: what the interval is of: "seeds", "pairs" or "".
        each: value by seed.
        share: of the distance between the teacher's pictures of other seeds, mean; NaN where it has none.
        parts: the mean of the seeds over each disjoint subset of the pairs, the same subsets in every row.
    """

    mean: float
    error: float = nan
    over: str = ""
    each: Mapping[int, float] = field(default_factory=dict)
    share: float = nan
    parts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """A trained model and a way to sample from it, on one base.

    Attributes:
        base, label, variant: of the evaluation, of the run, and of `evaluate.variants`.
        reference: whether it is a row of the base alone, the same in all runs.
        axes: what the sweep varied, with this row's values; the seed left out.
        seeds: of the trainings behind it.
        nfe: NFE per picture.
        numbers: by name, in the order of columns.
        beside: by distance, the difference to the sweep's baseline, paired by seed.
    """

    base: str
    label: str
    variant: str
    reference: bool
    axes: Mapping[str, Any]
    seeds: tuple[int, ...]
    nfe: float
    numbers: Mapping[str, Number]
    beside: Mapping[str, Number] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.variant if self.reference else f"{self.label}, {self.variant}"


@dataclass(frozen=True)
class _One:
    """A row of one run's report."""

    run: Run
    base: str
    row: Mapping[str, Any]
    training: Mapping[str, float]


def gather(folder: Path, runs: Sequence[Run], standings: Mapping[str, Standing], baseline: str | None = None) -> list[Row]:
    """The rows of all runs that are done.

    Args:
        baseline: the row, as `label, variant` or just its label, that others are set beside; None: no column for it.
    """
    cells: dict[tuple[str, str, str], list[_One]] = {}
    for run in runs:
        if standings[run.id].state == RunState.DONE:
            for one in _ones(run, read_json(run_folder(folder, run) / "metrics.json") or {}):
                label = "" if one.row["reference"] else run.label
                cells.setdefault((one.base, label, one.row["name"]), []).append(one)
    rows = [_row(base, label, variant, cell) for (base, label, variant), cell in cells.items()]
    bases = list(dict.fromkeys(row.base for row in rows))
    rows = sorted(rows, key=lambda row: (bases.index(row.base), not row.reference))
    if baseline is None:
        return rows
    anchors = {row.base: row for row in rows if not row.reference and baseline in (row.name, row.label)}
    return [_beside(row, anchors.get(row.base)) for row in rows]


def _ones(run: Run, found: Mapping[str, Any]) -> Iterator[_One]:
    for base in (found.get("evaluation") or {}).get("bases", ()):
        for row in base["rows"]:
            yield _One(run, base["base"], row, found.get("training") or {})


def _row(base: str, label: str, variant: str, cell: Sequence[_One]) -> Row:
    reference = bool(cell[0].row["reference"])
    cell = cell[:1] if reference else cell
    seeds = tuple(one.run.seed for one in cell)
    numbers: dict[str, Number] = {}
    for part in ("values", "alignment"):
        for name in dict.fromkeys(name for one in cell for name in one.row.get(part, {})):
            found = {one.run.seed: one.row[part][name] for one in cell if name in one.row.get(part, {})}
            numbers[name] = _over_seeds(found)
    for name, find in _further(cell[0].row).items():
        values = {one.run.seed: find(one.row) for one in cell}
        numbers[name] = _over_seeds({seed: {"value": value} for seed, value in values.items()})
    if not reference:
        for key, name in COST.items():
            spent = {one.run.seed: {"value": one.training[key]} for one in cell if one.training.get(key)}
            if spent:
                numbers[name] = _over_seeds(spent)
    axes = {} if reference else {k: v for k, v in cell[0].run.axes.items() if k != "seed"}
    return Row(base, label, variant, reference, axes, seeds, _nfe(cell[0].row), numbers)


def _nfe(row: Mapping[str, Any]) -> float:
    """NFE per picture; reports made before the key was renamed have it as `passes`."""
    return float(row["nfe"] if "nfe" in row else row["passes"])


def _further(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a report's row says besides its distances: negative control as a share of the teacher's, seconds, speed-up."""
    found: dict[str, Any] = {}
    for attribute in row.get("control_shares") or {}:
        name = f"negative control, {attribute}"
        found[name] = lambda r, attribute=attribute: r["control_shares"].get(attribute)
    found["s / picture"] = lambda r: r["seconds"]
    found["speed-up"] = lambda r: r["speedup"]
    if "limit" in row:
        found["limit of the speed-up"] = lambda r: r.get("limit")
    return found


def _over_seeds(values: Mapping[int, Mapping[str, Any]]) -> Number:
    known = {seed: v for seed, v in values.items() if v.get("value") is not None}
    each = {seed: float(v["value"]) for seed, v in known.items()}
    if not each:
        return Number(nan)
    shares = [float(v["share"]) for v in known.values() if v.get("share") is not None]
    error, over = half_width(list(each.values())), "seeds"
    if len(each) == 1:
        (only,) = known.values()
        error, over = float(only["error"]) if only.get("error") is not None else nan, "pairs"
    subsets = [v["subsets"] for v in known.values() if v.get("subsets")]
    parts = tuple(map(fmean, zip(*subsets, strict=False))) if len({len(s) for s in subsets}) == 1 else ()
    return Number(
        fmean(each.values()), error, over if isfinite(error) else "", each, fmean(shares) if shares else nan, parts
    )


def _beside(row: Row, anchor: Row | None) -> Row:
    """The row with its differences to the baseline."""
    if anchor is None or row.reference or row is anchor:
        return row
    shared = [name for name, number in row.numbers.items() if isfinite(number.share) and name in anchor.numbers]
    return replace(row, beside={name: _difference(row.numbers[name], anchor.numbers[name]) for name in shared})


def _difference(a: Number, b: Number) -> Number:
    """a - b: of the seeds that both were trained with where there are several, else over the subsets of the pairs, else of
    the means."""
    each = {seed: a.each[seed] - b.each[seed] for seed in a.each if seed in b.each}
    if len(each) > 1:
        return Number(fmean(each.values()), half_width(list(each.values())), "seeds", each)
    error = half_width([x - y for x, y in zip(a.parts, b.parts, strict=True)]) if len(a.parts) == len(b.parts) else nan
    return Number(a.mean - b.mean, error, "pairs" if isfinite(error) else "")
