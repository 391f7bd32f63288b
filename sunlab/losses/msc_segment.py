"""Multi-step consistency, third reading (ours; the paper's text allows three)."""

from collections.abc import Iterator
from itertools import pairwise

from sunlab.diffusion.grid import grid_times
from sunlab.diffusion.path import TOLERANCE, ProbabilityPath
from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.losses.consistency import States, consistency, require_skip
from sunlab.types import Batch


@LOSSES.register("msc_segment")
class MSCSegment(Loss):
    """Consistency inside each segment: the student at t and at t - k, both carried to the segment's end.

    t is one of a segment's start, k training steps below it, 2k, ...; x_{t-k} comes from x_t by one guided teacher step; the
    target is the student itself without gradient. With `states: data` x_t at t = 1 is pure noise, as at sampling.

    Args:
        segments: segments of the grid; null: the student's steps.
        skip: k; a step that would pass the segment's end stops there.
        states: where x_t comes from; `teacher` needs a trajectory dataset with states inside the segments.
    """

    def __init__(self, *, segments: int | None = None, skip: int = 20, states: States = "data"):
        self.segments, self.skip, self.states = segments, require_skip(skip), states

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        path = student.solver.path
        if self.segments is not None:
            student = student.on(grid_times(self.segments, path=path))
        points = [t for ends in pairwise(student.grid) for t in inside(path, *ends, self.skip)]
        return consistency(
            batch, student, teacher,
            jump=student.jump, edges=student.grid, points=points, skip=self.skip, states=self.states, pure_start=True,
        ).compared(distance)  # fmt: skip


def inside(path: ProbabilityPath, start: float, end: float, skip: int) -> Iterator[float]:
    """The times start, and every `skip` training steps below it, above end."""
    step, last = path.step(start), path.step(end)
    while step > last + TOLERANCE:
        yield path.time(step)
        step -= skip
