"""Multi-step consistency, third reading (ours; the paper's text allows three)."""

from itertools import pairwise

import torch

from sunlab.diffusion.timesteps import grid
from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.losses.consistency import States, consistency, require_skip
from sunlab.types import Batch


@LOSSES.register("msc_segment")
class MSCSegment(Loss):
    """Consistency inside each segment: the student at t and at t - k, both carried to the segment's end.

    t is one of a segment's start, start - k, start - 2k, ...; x_{t-k} comes from x_t by one guided teacher step; the target
    is the student itself without gradient. With `states: data` x_t at the grid's first time is pure noise, as at sampling.

    Args:
        segments: segments of the grid; null: the student's steps.
        skip: k; a step that would pass the segment's end stops there.
        states: where x_t comes from; `teacher` needs a bank with states inside the segments.
    """

    def __init__(self, *, segments: int | None = None, skip: int = 20, states: States = "data"):
        self.segments, self.skip, self.states = segments, require_skip(skip), states

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        edges = student.times
        if self.segments is not None:
            edges = grid(self.segments, train_steps=student.solver.schedule.steps).to(edges)
        points = torch.cat([torch.arange(a, s, -self.skip) for a, s in pairwise(edges.tolist())])
        return consistency(
            batch, student, teacher, distance,
            jump=student.jump, edges=edges, points=points, skip=self.skip, states=self.states, pure_start=True,
        )  # fmt: skip
