"""Phased consistency distillation (arXiv 2405.18407), without its adversarial part."""

import torch
from torch import Tensor

from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.losses.consistency import States, consistency, require_skip
from sunlab.types import Batch


@LOSSES.register("pcm")
class PCM(Loss):
    """Phased consistency: f(x_t, t) = f(x_{t-k}, t - k) up to the phase's edge, by a DDIM-like jump; not adversarial.

    The times are the public recipe's: t is one of k - 1, 2k - 1, ..., 999, the edges lie on the same points (k = 20 in 4
    phases: 739, 499, 239, 0), and the last is t = 0 rather than the clean end. The paper's adversarial loss and its variant
    without guidance in the teacher are left out. `msc_segment` differs in the edges, which there are the times at which the
    student is sampled.

    Args:
        segments: M, phases; null: the student's steps.
        skip: k, the distance of the points.
        states: where x_t comes from; `data`, forward-noised at every time, in the paper.
    """

    def __init__(self, *, segments: int | None = None, skip: int = 20, states: States = "data"):
        self.segments, self.skip, self.states = segments, require_skip(skip), states

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        last = student.solver.schedule.steps - 1
        points = torch.arange(last, 0, -self.skip)
        edges = phase_edges(points, self.segments or len(student.times) - 1).to(student.times)
        return consistency(
            batch, student, teacher, distance,
            jump=student.jump, edges=edges, points=points, skip=self.skip, states=self.states,
        )  # fmt: skip


def phase_edges(points: Tensor, phases: int) -> Tensor:
    """The M + 1 edges among `points` (N,) descending: the first point, and for each phase the point below its N / M points,
    0 below all."""
    below = torch.cat([points[1:], torch.zeros(1, dtype=points.dtype)])
    starts = (torch.arange(phases, dtype=torch.float64) * len(points) / phases).floor().long()  # counted from the lowest
    return torch.cat([points[:1], below[len(points) - 1 - starts].flip(0)])
