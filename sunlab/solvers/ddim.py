"""DDIM with eta 0 (arXiv 2010.02502, equation 12), which is Euler's method."""

from typing import Any

from torch import Tensor

from sunlab.diffusion.prediction import Denoiser
from sunlab.solvers.base import SOLVERS, Solver


@SOLVERS.register("euler")
@SOLVERS.register("ddim")
class DDIM(Solver):
    """First order, deterministic: x_s = alpha_s x_0 + sigma_s epsilon.

    Euler's method in sigma / alpha (arXiv 2206.00364, algorithm 1 without its correction) and, on rectified flow, in t are
    the same formula, so `euler` is another name of it; it works where alpha = 0 too.
    """

    def step(self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        prediction = denoise(x, t)
        alpha, sigma = self.path.at(s, x)
        moved = alpha * prediction.x_0 + sigma * prediction.epsilon
        return moved, None
