"""The protocol on one base: draw before and after from the same seeds, compare, time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from torch import Tensor

from sunlab.evaluation.base import Metric
from sunlab.evaluation.comparison import Pictures, Value, compare
from sunlab.evaluation.extractors import Extractor
from sunlab.evaluation.gallery import Gallery, read
from sunlab.evaluation.methods import Method
from sunlab.evaluation.negative_control import Control, control_of
from sunlab.evaluation.timing import times_of
from sunlab.pipelines.base import BaseModel
from sunlab.pipelines.draw import Request


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
        control: negative control, or None.
        control_share: of what classifier-free guidance in the row before suppresses; NaN where that is not known.
    """

    name: str
    reference: bool
    passes: float
    seconds: float
    speedup: float
    values: Mapping[str, Value]
    control: Control | None
    control_share: float


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
    values = [{}, *(_shares(found, compared[1][0]) for found, _ in compared)]
    controls = [_control(gallery, method, protocol) for method in protocol.methods]
    times = times_of(gallery, protocol.methods, protocol.request.part(0, protocol.timed))
    rows = [
        Row(
            name=method.name,
            reference=place < 3,
            passes=passes,
            seconds=seconds,
            speedup=times[0][1] / seconds,
            values=values[place],
            control=controls[place],
            control_share=_control_share(controls[place], controls[0]),
        )
        for place, (method, (passes, seconds)) in enumerate(zip(protocol.methods, times, strict=True))
    ]
    shown = [read(pictures.paths[: protocol.shown]) for pictures in sets]
    return Result(name, rows, shown, list(dict.fromkeys(line for _, told in compared for line in told)), gallery.passes)


def _shares(found: Mapping[str, Value], other: Mapping[str, Value]) -> dict[str, Value]:
    """Paired distances as a share of those to the teacher with other seeds."""
    return {n: replace(v, share=v.value / other[n].value if v.paired else v.share) for n, v in found.items()}


def _control(gallery: Gallery, method: Method, protocol: Protocol) -> Control | None:
    if not protocol.control or not method.same_seeds:
        return None
    return control_of(method.name, lambda request: read(gallery.draw(method, request)), protocol.control)


def _control_share(control: Control | None, before: Control | None) -> float:
    if control is None or before is None or not before.suppressed or not isfinite(before.suppressed):
        return float("nan")
    return control.suppressed / before.suppressed
