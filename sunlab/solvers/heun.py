"""Heun's method in sigma / alpha (arXiv 2206.00364, algorithm 1)."""

from typing import Any

import torch
from torch import Tensor

from sunlab.solvers.base import SOLVERS, Solver
from sunlab.solvers.euler import karras
from sunlab.types import END, Denoiser


@SOLVERS.register("heun")
class Heun(Solver):
    """Second order, two evaluations a step: the mean slope of Euler's step; Euler alone in a step to the clean end.

    Raises:
        ValueError: a start at zero signal-to-noise, where sigma / alpha is infinite.
    """

    def step(self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        ratio_t, alpha_t = karras(self.schedule, t, x)
        ratio_s, alpha_s = karras(self.schedule, s, x)
        still, once = (mask.reshape(ratio_t.shape) for mask in (t == s, (t == s) | (s == END)))
        slope = denoise(x, t).epsilon
        moved = torch.where(still, x, alpha_s * (x / alpha_t + (ratio_s - ratio_t) * slope))
        if bool(once.all()):
            return moved, None
        # Samples that need no second evaluation repeat the first: the model is not asked at END, which it never saw.
        second = denoise(torch.where(once, x, moved), torch.where((t == s) | (s == END), t, s)).epsilon
        corrected = alpha_s * (x / alpha_t + (ratio_s - ratio_t) * (slope + second) / 2)
        return torch.where(once, moved, corrected), None
