"""All metrics of one set of pictures against the set before, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sunlab.evaluation.base import Metric
from sunlab.evaluation.gallery import read
from sunlab.evaluation.statistics import half_width, subsets_of

BATCH = 64  # pictures in memory


@dataclass(frozen=True)
class Value:
    """A number.

    Attributes:
        value: over all pairs.
        error: half of its 95 % interval, from disjoint subsets; NaN where there is none.
        paired: whether it can be read as a share of another distance.
        pairs: how many it was measured on (N).
        share: of the same distance to the teacher with other seeds; NaN where that is not known.
        subsets: the values over the disjoint subsets, for differences of rows that saw the same pairs; none without an
            interval.
    """

    value: float
    error: float
    paired: bool
    pairs: int
    share: float = float("nan")
    subsets: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pictures:
    """A set of pictures: their files, and features (N, D)."""

    paths: Sequence[Path]
    features: Tensor


@dataclass(frozen=True)
class Comparison:
    """A set of pictures against the set before.

    Attributes:
        values: by name.
        distances: of each pair (N,), of the values that are means of them.
        warnings: what a reader must know.
    """

    values: Mapping[str, Value]
    distances: Mapping[str, Tensor]
    warnings: Sequence[str]


def compare(before: Pictures, after: Pictures, metrics: Sequence[Callable[[], Metric]], *, subsets: int) -> Comparison:
    """Every metric of one set.

    Args:
        metrics: each makes a new instance, which is one comparison.
        subsets: disjoint ones behind the intervals.
    """
    found: dict[str, Value] = {}
    distances: dict[str, Tensor] = {}
    warnings: list[str] = []
    parts = subsets_of(len(before.paths), subsets)
    for make in metrics:
        whole = make()
        values: list[dict[str, float]] = []
        for part in parts:
            one = make()
            for start in range(part.start, part.stop, BATCH):
                batch = range(start, min(start + BATCH, part.stop))
                pair = _pair(before, batch, whole.sees), _pair(after, batch, whole.sees)
                for metric in (whole, one):
                    metric.update(*pair)
            if whole.splits and len(parts) > 1:
                values.append(one.compute())
        for name, value in whole.compute().items():
            each = tuple(v[name] for v in values)
            found[name] = Value(value, half_width(each), whole.paired, len(before.paths), subsets=each)
            if whole.paired:
                distances[name] = whole.each()
        warnings += whole.warnings(len(before.paths))
    return Comparison(found, distances, warnings)


def aligned(judged: dict[str, Tensor], *, subsets: int) -> dict[str, Value]:
    """The mean of each value over the pictures whose prompt names it, with a 95 % interval from disjoint subsets; a
    value that no prompt names is left out."""
    found = {}
    for name, values in judged.items():
        named = values[~values.isnan()].double()
        if len(named):
            parts = [float(named[part.start : part.stop].mean()) for part in subsets_of(len(named), subsets)]
            found[name] = Value(float(named.mean()), half_width(parts), paired=False, pairs=len(named))
    return found


def _pair(pictures: Pictures, batch: range, sees: str) -> Tensor:
    part = slice(batch.start, batch.stop)
    return pictures.features[part] if sees == "features" else read(pictures.paths[part])
