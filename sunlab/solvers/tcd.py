"""Strategic stochastic sampling, of trajectory consistency distillation (arXiv 2402.19159)."""

from typing import Literal

import torch
from torch import Tensor

from sunlab.diffusion.path import ProbabilityPath
from sunlab.diffusion.prediction import Denoiser
from sunlab.errors import ConfigError
from sunlab.solvers.base import SOLVERS, Solver
from sunlab.solvers.renoise import keys_of, renoise


@SOLVERS.register("tcd")
class TCD(Solver):
    """Jump past the next time s, to u = (1 - gamma) s in whole training steps, then noise back up to s.

    x_u = alpha_u x_0 + sigma_u epsilon, x_s = r x_u + sqrt(sigma_s^2 - r^2 sigma_u^2) z, r = alpha_s / alpha_u.
    The noise z is keyed by `seed`, by the state that a sample starts from, and by s.

    Args:
        gamma: 0 is DDIM, deterministic; 1 jumps all the way, nearly as `lcm` does (diffusers calls it `eta`).
        seed: of the noise.
        end: where the step to the clean end arrives: `first_step`, at t = 0, which still has sigma_0 of noise, as the
            authors' code and diffusers' TCDScheduler do; `clean`, at x_0.

    Raises:
        ConfigError: gamma outside [0, 1].
    """

    def __init__(
        self, path: ProbabilityPath, *, gamma: float = 0.3, seed: int = 0, end: Literal["first_step", "clean"] = "first_step"
    ):
        super().__init__(path)
        if not 0 <= gamma <= 1:
            raise ConfigError(f"solver.gamma is a share, 0 to 1, got {gamma}")
        self.gamma, self.seed, self.end = gamma, seed, path.t_min if end == "first_step" else 0.0

    def step(
        self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        prediction = denoise(x, t)
        still, s = t == s, s.clamp(min=self.end)
        step = self.path.step(s)
        jump = ((1 - self.gamma) * step.float()).floor().double()  # in float32, as diffusers: its last bit decides
        u = torch.where(step > 0, self.path.time(jump), s)
        alpha_u, sigma_u = self.path.at(u, x)
        moved, known = alpha_u * prediction.x_0 + sigma_u * prediction.epsilon, memory
        shape = alpha_u.shape
        if self.gamma > 0:
            known = keys_of(x, self.seed) if memory is None else memory
            (alpha_s, sigma_s), (alpha_u, sigma_u) = self.path.alpha_sigma(s), self.path.alpha_sigma(u)
            ratio = alpha_s / alpha_u
            fresh = (sigma_s**2 - (ratio * sigma_u) ** 2).clamp(min=0).sqrt()
            moved = ratio.to(x).reshape(shape) * moved + fresh.to(x).reshape(shape) * renoise(known, s, x)
        return torch.where(still.reshape(shape), x, moved), known
