"""The protocol on one base: draw before and after from the same seeds, compare, time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sunlab.backbones.base import BaseModel
from sunlab.evaluation.base import Alignment, Extractor, Metric
from sunlab.evaluation.comparison import BATCH, Comparison, Pictures, Value, aligned, compare
from sunlab.evaluation.control import Control, Draw, NegativeControl
from sunlab.evaluation.gallery import Gallery, read
from sunlab.evaluation.methods import Method
from sunlab.evaluation.rows import Result, Row, beside_rivals, ratio, shares
from sunlab.evaluation.timing import times_of
from sunlab.pipelines.draw import Request
from sunlab.progress import Lines


@dataclass(frozen=True)
class Protocol:
    """What is drawn and how it is judged, the same on every base.

    Attributes:
        request: pairs of prompts and negative prompts, with seeds.
        before, solver_error, other_seed: the teacher; with the reference's number of steps; with other noise.
        nothing: the base without adapter and without guidance. What is judged has an effect where it differs from these.
        variants: what is judged.
        metrics: each makes a new instance.
        extractor: of their features.
        alignment: of pictures and prompts, or None.
        subsets: disjoint ones behind the intervals.
        control: of negative prompts, or None.
        timed: pictures of each method whose time is taken.
        shown: pictures of each method in the report.
        worst: pairs at which the first variant is farthest from the teacher, which the report shows too.
    """

    request: Request
    before: Method
    solver_error: Method
    other_seed: Method
    nothing: Sequence[Method]
    variants: Sequence[Method]
    metrics: Sequence[Callable[[], Metric]]
    extractor: Extractor
    alignment: Alignment | None
    subsets: int
    control: NegativeControl | None
    timed: int
    shown: int
    worst: int = 0

    @property
    def references(self) -> list[Method]:
        return [self.before, self.solver_error, self.other_seed, *self.nothing]

    @property
    def methods(self) -> list[Method]:
        return [*self.references, *self.variants]


def evaluate_base(name: str, base: BaseModel, protocol: Protocol, folder: Path, *, batch: int, progress: Lines) -> Result:
    """Run the protocol. Pictures, features and times that are in `folder` are not made again.

    Raises:
        ConfigError: the extractor misses its package or file.
        DataError: an unusable adapter file, or one of another base.
    """
    gallery = Gallery(folder, base, batch=batch)
    sets = []
    for method in protocol.methods:
        paths = gallery.draw(method, protocol.request, progress)
        sets.append(Pictures(paths, gallery.features(paths, protocol.extractor)))
    compared = [compare(sets[0], after, protocol.metrics, subsets=protocol.subsets) for after in sets[1:]]
    controls = _controls(gallery, protocol)
    times = times_of(gallery, protocol.methods, protocol.request.part(0, protocol.timed))
    rows = [
        Row(
            name=method.name,
            reference=place < len(protocol.references),
            guided=method.guided,
            nfe=taken.nfe,
            seconds=taken.seconds,
            speedup=times[0].seconds / taken.seconds,
            limit=times[0].bare / taken.bare,
            timed=min(protocol.timed, len(protocol.request)),
            values=shares(compared[place - 1].values, compared[1].values) if place else {},
            alignment=_alignment(sets[place], protocol),
            against={},
            controls=controls[place],
            control_shares={k: ratio(c, controls[0].get(k)) for k, c in controls[place].items()},
        )
        for place, (method, taken) in enumerate(zip(protocol.methods, times, strict=True))
    ]
    rows = beside_rivals(rows, [{}, *(one.distances for one in compared)])
    shown = [read(pictures.paths[: protocol.shown]) for pictures in sets]
    warnings = list(dict.fromkeys(line for one in compared for line in one.warnings))
    worst = _worst(compared[len(protocol.references) - 1 :], protocol.worst)
    farthest = [
        read([pictures.paths[i] for i in worst]) for pictures in (sets[0], *sets[len(protocol.references) :]) if worst
    ]
    return Result(name, rows, shown, warnings, gallery.nfe, worst, farthest)


def _worst(variants: Sequence[Comparison], count: int) -> list[int]:
    """The pairs of the greatest distances of the first variant, by the first metric that is a distance of each pair."""
    distances = next(iter(variants[0].distances.values()), None) if variants else None
    return [] if distances is None else distances.argsort(descending=True, stable=True)[:count].tolist()


def _alignment(pictures: Pictures, protocol: Protocol) -> dict[str, Value]:
    if protocol.alignment is None:
        return {}
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(pictures.paths), BATCH):
        batch = slice(start, start + BATCH)
        parts.append(protocol.alignment(read(pictures.paths[batch]), protocol.request.prompts[batch]))
    judged = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return aligned(judged, subsets=protocol.subsets)


def _controls(gallery: Gallery, protocol: Protocol) -> list[dict[str, Control]]:
    """By attribute, of each method but the one of other seeds."""
    control = protocol.control
    if control is None:
        return [{} for _ in protocol.methods]

    def drawn_by(method: Method) -> Draw:
        return lambda request: read(gallery.draw(method, request))

    questions = control.questions(drawn_by(protocol.before))
    return [
        {c.attribute: c for c in control.measure(method.name, drawn_by(method), questions)} if method.same_seeds else {}
        for method in protocol.methods
    ]
