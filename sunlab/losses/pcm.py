"""Phased consistency distillation (arXiv 2405.18407), without its adversarial part."""

from collections.abc import Sequence

from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.losses.consistency import States, consistency, require_skip
from sunlab.types import Batch


@LOSSES.register("pcm")
class PCM(Loss):
    """Phased consistency: f(x_t, t) = f(x_{t-k}, t - k) up to the phase's edge, by a DDIM-like jump; not adversarial.

    The times are the public recipe's: the student's step is one of k - 1, 2k - 1, ..., 999 of Stable Diffusion's, the edges
    lie on the same steps (k = 20 in 4 phases: 739, 499, 239, 0), and the last is step 0 rather than the clean end. The
    paper's adversarial loss and its variant without guidance in the teacher are left out. `msc_segment` differs in the
    edges, which there are the times at which the student is sampled.

    Args:
        segments: M, phases; null: the student's steps.
        skip: k, the distance of these steps.
        states: where x_t comes from; `data`, forward-noised at every time, in the paper.
    """

    def __init__(self, *, segments: int | None = None, skip: int = 20, states: States = "data"):
        self.segments, self.skip, self.states = segments, require_skip(skip), states

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        path = student.solver.path
        steps = range(path.last, 0, -self.skip)
        points = [path.time(i) for i in steps]
        edges = [path.time(i) for i in phase_edges(steps, self.segments or len(student.grid) - 1)]
        return consistency(
            batch, student, teacher, distance,
            jump=student.jump, edges=edges, points=points, skip=self.skip, states=self.states,
        )  # fmt: skip


def phase_edges(points: Sequence[int], phases: int) -> list[int]:
    """The M + 1 edges among N descending steps: the first, and for each phase the step below its N / M; 0 below all."""
    below = [*points[1:], 0]
    starts = [phase * len(points) // phases for phase in range(phases)]  # counted from the lowest
    return [points[0], *(below[len(points) - 1 - start] for start in reversed(starts))]
