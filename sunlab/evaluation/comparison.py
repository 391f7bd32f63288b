"""All metrics of one set of pictures against the set before, with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sunlab.evaluation.base import Metric
from sunlab.evaluation.gallery import read
from sunlab.evaluation.intervals import half_width, subsets_of

BATCH = 64  # pictures in memory


@dataclass(frozen=True)
class Value:
    """A number.

    Attributes:
        value: over all pairs.
        error: half of its 95 % interval, from disjoint subsets; NaN where there is none.
        paired: whether it can be read as a share of another distance.
        share: of the same distance to the teacher with other seeds; NaN where that is not known.
    """

    value: float
    error: float
    paired: bool
    share: float = float("nan")


@dataclass(frozen=True)
class Pictures:
    """A set of pictures: their files, and features (N, D)."""

    paths: Sequence[Path]
    features: Tensor


def compare(
    before: Pictures, after: Pictures, metrics: Sequence[Callable[[], Metric]], *, subsets: int
) -> tuple[dict[str, Value], list[str]]:
    """Every metric's values by name, and what a reader must know of them.

    Args:
        metrics: each makes a new instance, which is one comparison.
        subsets: disjoint ones behind the intervals.
    """
    found: dict[str, Value] = {}
    told: list[str] = []
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
            found[name] = Value(value, half_width([v[name] for v in values]), whole.paired)
        told += whole.warnings(len(before.paths))
    return found, told


def _pair(pictures: Pictures, batch: range, sees: str) -> Tensor:
    part = slice(batch.start, batch.stop)
    return pictures.features[part] if sees == "features" else read(pictures.paths[part])
