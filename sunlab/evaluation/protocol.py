"""The protocol on one base: draw before and after from the same seeds, compare, time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from torch import Tensor

from sunlab.evaluation.base import Metric
from sunlab.evaluation.comparison import Comparison, Pictures, Value, compare
from sunlab.evaluation.extractors import Extractor
from sunlab.evaluation.gallery import Gallery, read
from sunlab.evaluation.methods import Method
from sunlab.evaluation.negative_control import Control, Draw, control_of, questions
from sunlab.evaluation.rival import Against, against, rival_of
from sunlab.evaluation.timing import times_of
from sunlab.pipelines.base import BaseModel
from sunlab.pipelines.draw import Request

REFERENCES = 3  # the first methods: the teacher, with more steps, with other seeds


@dataclass(frozen=True)
class Protocol:
    """What is drawn and how it is judged, the same on every base.

    Attributes:
        request: pairs of prompts and negative prompts, with seeds.
        before, solver_error, other_seed: the teacher; with the reference's number of steps; with other noise.
        variants: what is judged.
        metrics: each makes a new instance.
        extractor: of their features.
        subsets: disjoint ones behind the intervals.
        control: pictures of each kind behind the negative control; 0: none.
        timed: pictures of each method whose time is taken.
        shown: pictures of each method in the report.
    """

    request: Request
    before: Method
    solver_error: Method
    other_seed: Method
    variants: Sequence[Method]
    metrics: Sequence[Callable[[], Metric]]
    extractor: Extractor
    subsets: int
    control: int
    timed: int
    shown: int

    @property
    def methods(self) -> list[Method]:
        return [self.before, self.solver_error, self.other_seed, *self.variants]


@dataclass(frozen=True)
class Row:
    """A method beside the teacher before.

    Attributes:
        reference: whether it is one of the teacher's own rows.
        passes: U-Net passes a picture.
        seconds: a picture, drawn alone.
        speedup: of the teacher's seconds over these.
        values: by name; none of the teacher before itself.
        against: of each paired distance, the row beside the guided variant of as many passes; none of guided rows.
        controls: negative control, by attribute.
        control_shares: by attribute, of what classifier-free guidance in the row before suppresses; NaN where not known.
    """

    name: str
    reference: bool
    passes: float
    seconds: float
    speedup: float
    values: Mapping[str, Value]
    against: Mapping[str, Against]
    controls: Mapping[str, Control]
    control_shares: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """Of one base.

    Attributes:
        base: its name.
        rows: the teacher before, the two references, the variants.
        shown: (B, 3, H, W) in [0, 1], one for each row.
        warnings: what a reader must know.
        passes: U-Net passes that were spent in this run.
    """

    base: str
    rows: Sequence[Row]
    shown: Sequence[Tensor]
    warnings: Sequence[str]
    passes: float


def evaluate_base(name: str, base: BaseModel, protocol: Protocol, folder: Path, *, batch: int) -> Result:
    """Run the protocol. Pictures, features and times that are in `folder` are not made again.

    Raises:
        ConfigError: the extractor misses its package or file.
        DataError: an unusable adapter file, or one of another base.
    """
    gallery = Gallery(folder, base, batch=batch)
    sets = []
    for method in protocol.methods:
        paths = gallery.draw(method, protocol.request)
        sets.append(Pictures(paths, gallery.features(paths, protocol.extractor)))
    compared = [compare(sets[0], after, protocol.metrics, subsets=protocol.subsets) for after in sets[1:]]
    other = compared[1].values
    controls = _controls(gallery, protocol)
    times = times_of(gallery, protocol.methods, protocol.request.part(0, protocol.timed))
    rows = [
        Row(
            name=method.name,
            reference=place < REFERENCES,
            passes=passes,
            seconds=seconds,
            speedup=times[0][1] / seconds,
            values=_shares(compared[place - 1].values, other) if place else {},
            against={},
            controls=controls[place],
            control_shares={k: _ratio(c, controls[0].get(k)) for k, c in controls[place].items()},
        )
        for place, (method, (passes, seconds)) in enumerate(zip(protocol.methods, times, strict=True))
    ]
    rows = _beside_rivals(rows, protocol.methods, compared)
    shown = [read(pictures.paths[: protocol.shown]) for pictures in sets]
    warnings = list(dict.fromkeys(line for one in compared for line in one.warnings))
    return Result(name, rows, shown, warnings, gallery.passes)


def _shares(found: Mapping[str, Value], other: Mapping[str, Value]) -> dict[str, Value]:
    """Paired distances as a share of those to the teacher with other seeds."""
    return {n: replace(v, share=v.value / other[n].value if v.paired else v.share) for n, v in found.items()}


def _beside_rivals(rows: list[Row], methods: Sequence[Method], compared: Sequence[Comparison]) -> list[Row]:
    """Variants with an adapter beside the guided variant of as many passes."""
    guided = [row for row, m in zip(rows, methods, strict=True) if m.adapter is None and not row.reference]
    found = []
    for place, (row, method) in enumerate(zip(rows, methods, strict=True)):
        rival = rival_of(row, guided) if method.adapter is not None else None
        if rival is not None:
            own, others = compared[place - 1].distances, compared[rows.index(rival) - 1].distances
            row = replace(row, against={name: against(rival.name, own[name], others[name]) for name in own})
        found.append(row)
    return found


def _controls(gallery: Gallery, protocol: Protocol) -> list[dict[str, Control]]:
    """By attribute, of each method but the one of other seeds."""
    if not protocol.control:
        return [{} for _ in protocol.methods]

    def drawn_by(method: Method) -> Draw:
        return lambda request: read(gallery.draw(method, request))

    asked = questions(drawn_by(protocol.before), protocol.control)
    return [
        {c.attribute: c for c in control_of(method.name, drawn_by(method), asked)} if method.same_seeds else {}
        for method in protocol.methods
    ]


def _ratio(control: Control, before: Control | None) -> float:
    if before is None or not before.suppressed or not isfinite(before.suppressed):
        return float("nan")
    return control.suppressed / before.suppressed
