"""DDIM with eta 0 (arXiv 2010.02502, equation 12)."""

from typing import Any

from torch import Tensor

from sunlab.solvers.base import SOLVERS, Solver
from sunlab.types import Denoiser


@SOLVERS.register("ddim")
class DDIM(Solver):
    """First order, deterministic: x_s = alpha_s x_0 + sigma_s epsilon."""

    def step(self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        prediction = denoise(x, t)
        alpha, sigma = self.schedule.at(s, x)
        moved = alpha * prediction.x_0 + sigma * prediction.epsilon
        return moved, None
