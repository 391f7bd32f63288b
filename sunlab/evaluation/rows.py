"""What was measured on one base: a row for each way to draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from torch import Tensor

from sunlab.evaluation.comparison import Value
from sunlab.evaluation.control import Control
from sunlab.evaluation.statistics import Against, against, rival_of


@dataclass(frozen=True)
class Row:
    """A method beside the teacher before.

    Attributes:
        reference: whether it is the teacher's own, or the base without adapter and guidance: the same in every evaluation.
        guided: whether it is the base itself with guidance.
        nfe: network evaluations a picture.
        seconds: a picture, drawn alone.
        speedup: of the teacher's seconds over these.
        limit: the same of the seconds that their bare network evaluations take, in the same run.
        timed: pictures behind the seconds (N).
        values: by name; none of the teacher before itself.
        alignment: of its pictures with their prompts, by name.
        against: of each paired distance, the row beside the guided variant of equal NFE; none of guided rows.
        controls: negative control, by attribute.
        control_shares: by attribute, of what classifier-free guidance in the row before suppresses; NaN where not known.
    """

    name: str
    reference: bool
    guided: bool
    nfe: float
    seconds: float
    speedup: float
    limit: float
    timed: int
    values: Mapping[str, Value]
    alignment: Mapping[str, Value]
    against: Mapping[str, Against]
    controls: Mapping[str, Control]
    control_shares: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """Of one base.

    Attributes:
        base: its name.
        rows: the references, the teacher before first; the variants.
        shown: (B, 3, H, W) in [0, 1], one for each row.
        worst: the pairs at which the first variant is farthest from the teacher, farthest first.
        farthest: their pictures, as `shown`, of the teacher and of each variant.
        warnings: what a reader must know.
        nfe: network evaluations that were spent in this run.
    """

    base: str
    rows: Sequence[Row]
    shown: Sequence[Tensor]
    warnings: Sequence[str]
    nfe: float
    worst: Sequence[int] = ()
    farthest: Sequence[Tensor] = ()


def shares(found: Mapping[str, Value], other: Mapping[str, Value]) -> dict[str, Value]:
    """Paired distances as a share of those to the teacher with other seeds, where these are not zero."""
    return {
        n: replace(v, share=v.value / other[n].value if v.paired and other[n].value else v.share) for n, v in found.items()
    }


def beside_rivals(rows: Sequence[Row], distances: Sequence[Mapping[str, Tensor]]) -> list[Row]:
    """Rows with an adapter beside the guided variant of equal NFE.

    Args:
        distances: of each row's pairs (N,), by name.
    """
    guided = [row for row in rows if row.guided and not row.reference]
    found = []
    for row, own in zip(rows, distances, strict=True):
        rival = None if row.guided else rival_of(row, guided)
        if rival is not None:
            others = distances[rows.index(rival)]
            row = replace(row, against={name: against(rival.name, own[name], others[name]) for name in own})
        found.append(row)
    return found


def ratio(control: Control, before: Control | None) -> float:
    """What is suppressed, as a share of what the row before suppresses; NaN where that is not known."""
    if before is None or not before.suppressed or not isfinite(before.suppressed):
        return float("nan")
    return control.suppressed / before.suppressed
