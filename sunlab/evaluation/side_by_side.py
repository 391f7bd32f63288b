"""A small table: ways to draw the same pairs, each beside the first and beside its rival."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from sunlab.evaluation.base import Metric
from sunlab.evaluation.paired import pixel_distances
from sunlab.evaluation.statistics import Against, against, rival_of
from sunlab.pipelines.draw import Drawn

HEADER = ("", "NFE", "s / picture", "speed-up", "distance to the first", "beside DPM-Solver++ at equal NFE")


@dataclass(frozen=True)
class Row:
    """A way to draw beside the first one.

    Attributes:
        nfe: network evaluations a picture.
        seconds: a picture, in this run.
        speedup: of the first row's seconds over these.
        distance: root mean squared difference of paired pictures in [0, 1], mean over pairs; its standard error.
        against: of the pairs, how many are nearer to the first than the guided row of equal NFE is; None for guided rows.
        content: shares of the pairs whose two pictures show the same, by name; empty where not measured.
    """

    name: str
    nfe: float
    seconds: float
    speedup: float
    distance: float
    error: float
    against: Against | None = None
    content: Mapping[str, float] = field(default_factory=dict)

    @property
    def cells(self) -> list[str]:
        beside = self.against.text if self.against else ""
        distance = f"{self.distance:.4f} ± {self.error:.4f}"
        return [self.name, f"{self.nfe:.0f}", f"{self.seconds:.4f}", f"{self.speedup:.1f}x", distance, beside]


def rows_of(
    names: Sequence[str], drawn: Sequence[Drawn], guided: Sequence[bool], content: Callable[[], Metric] | None = None
) -> list[Row]:
    """Each way to draw measured against the first.

    Args:
        drawn: the same request, drawn in each way.
        guided: whether each is the base itself with guidance, and so a rival of those that are not.
        content: makes a metric of pairs of pictures whose values are shares of the pairs, as `content_kept` is.
    """
    distances = [pixel_distances(drawn[0].images, d.images) for d in drawn]
    rows = [_row(name, d, drawn[0], values) for name, d, values in zip(names, drawn, distances, strict=True)]
    rivals = [row for row, is_rival in zip(rows, guided, strict=True) if is_rival]
    rows = [
        row if is_rival else replace(row, against=_against(row, rivals, rows, distances))
        for row, is_rival in zip(rows, guided, strict=True)
    ]
    if content is None:
        return rows
    return [replace(row, content=_content(content(), drawn[0], d)) for row, d in zip(rows, drawn, strict=True)]


def table_of(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells. The first share of the content, where it was measured, is the last column."""
    name = next(iter(rows[0].content), None)
    if name is None:
        return list(HEADER), [row.cells for row in rows]
    return [*HEADER, name.replace("_", " ")], [[*row.cells, f"{row.content[name]:.0%}"] for row in rows]


def _row(name: str, drawn: Drawn, first: Drawn, distances: Tensor) -> Row:
    error = float(distances.std() / len(distances) ** 0.5) if len(distances) > 1 else float("nan")
    return Row(name, drawn.nfe, drawn.seconds, first.seconds / drawn.seconds, float(distances.mean()), error)


def _content(metric: Metric, first: Drawn, drawn: Drawn) -> dict[str, float]:
    metric.update(first.images, drawn.images)
    return metric.compute()


def _against(row: Row, rivals: Sequence[Row], rows: Sequence[Row], distances: Sequence[Tensor]) -> Against | None:
    rival = rival_of(row, rivals)
    if rival is None:
        return None
    return against(rival.name, distances[rows.index(row)], distances[rows.index(rival)])
