"""The numbers of a row by name, for bars, curves and means; and the names that an evaluation will measure, known before the
first picture is drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sunlab.evaluation.base import Alignment, Metric
from sunlab.evaluation.control import NegativeControl
from sunlab.evaluation.rows import Row


def measures_of(row: Row) -> dict[str, float]:
    """`paired_l2`, `kid_x1000`, ...: values; `paired_l2.share`: as a share of the distance to the teacher's other seeds;
    `paired_l2.nearer`: share of pairs nearer to the teacher than the guided variant of equal NFE; `clip_score`, ...:
    alignment; `control.background`, ...: suppressed, as a share of the teacher's; `speedup`; `limit`: the same of the bare
    network evaluations."""
    found: dict[str, float] = {}
    for name, value in row.values.items():
        found[name] = value.value
        if value.paired:
            found[f"{name}.share"] = value.share
    found |= {f"{name}.nearer": beside.nearer for name, beside in row.against.items()}
    found |= {name: value.value for name, value in row.alignment.items()}
    found |= {f"control.{name}": share for name, share in row.control_shares.items()}
    return {**found, "speedup": row.speedup, "limit": row.limit}


FEW = 4  # pairs of noise


@dataclass(frozen=True)
class Foreseen:
    """Names of numbers, as `measures_of` has them.

    Attributes:
        paired: distances that are means over pairs.
        all: every number. Principal components of a Frechet distance are counted by the pairs: `fd_pc` stands for any count.
        whole: whether that is all; a metric may refuse noise.
    """

    paired: frozenset[str]
    all: frozenset[str]
    whole: bool = True

    def knows(self, name: str) -> bool:
        return not self.whole or name in self.all or ("fd_pc" in self.all and name.startswith("fd_") and name.endswith("pc"))


def foreseen(
    metrics: Sequence[Callable[[], Metric]], alignment: Alignment | None, control: NegativeControl | None
) -> Foreseen:
    """Args: each of `metrics` makes a new instance; what else is configured.

    Raises:
        ConfigError, DataError: the alignment or the control misses what it needs.
    """
    noise = torch.rand(2, FEW, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    paired, found, whole = set[str](), {"speedup", "limit"}, True
    for make in metrics:
        metric = make()
        try:
            metric.update(*(noise if metric.sees == "pictures" else noise.flatten(2)[..., :8]))
            names = {"fd_pc" if name.startswith("fd_") else name for name in metric.compute()}
        except ValueError:
            whole = False
            continue
        found |= names
        if metric.paired:
            paired |= names
            found |= {f"{name}.{kind}" for name in names for kind in ("share", "nearer")}
    if alignment is not None:
        found |= alignment(noise[0, :1], [""]).keys()
    if control is not None:
        found |= {f"control.{attribute}" for attribute in control.shown(noise[0, :1])}
    return Foreseen(frozenset(paired), frozenset(found), whole)
