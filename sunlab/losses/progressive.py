"""Progressive distillation: two teacher steps in one (arXiv 2202.00512; guided: 2210.03142)."""

import torch
from torch import Tensor

from sunlab.diffusion.path import ProbabilityPath
from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.losses.states import States, state_at
from sunlab.types import Batch


@LOSSES.register("progressive")
class Progressive(Loss):
    """Two guided teacher steps in one step of the student, compared in x_0 by inverting its DDIM step.

    arXiv 2202.00512, algorithm 2: the target is the x_0 with which one DDIM step from x_t lands where the teacher's two do;
    the teacher is the guided one, as in arXiv 2210.03142. The paper weighs by max(SNR, 1): `weighting: truncated_snr`, and
    its teacher's solver is ddim. One stage: halving again is another run, whose base is the former run's student, at w = 1.

    Args:
        states: where x_t comes from, always at the times of the student's grid; `data` in the papers.
    """

    def __init__(self, *, states: States = "data"):
        self.states = states

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        index = batch.draws.integers("segment", 0, len(student.times) - 1)
        t, s = student.times[index], student.times[index + 1]
        x_t = state_at(self.states, batch, t, index, student)
        with torch.no_grad():
            x_s = teacher.integrate(x_t, t, s, 2)
            target = inverted(student.solver.path, x_t, t, x_s, s)
        return LossOutput(distance(student.denoise(x_t, t).x_0, target), t, s)


def inverted(path: ProbabilityPath, x_t: Tensor, t: Tensor, x_s: Tensor, s: Tensor) -> Tensor:
    """The x_0 with which DDIM steps from x_t to x_s (both (B, C, H, W); t > s, (B,)):
    (x_s - r x_t) / (alpha_s - r alpha_t), r = sigma_s / sigma_t."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = path.alpha_sigma(t), path.alpha_sigma(s)
    ratio = sigma_s / sigma_t
    shape = (-1,) + (1,) * (x_t.dim() - 1)
    on_x_t, scale = (c.to(x_t).reshape(shape) for c in (ratio, alpha_s - ratio * alpha_t))
    return (x_s - on_x_t * x_t) / scale
