"""Strategic stochastic sampling, of trajectory consistency distillation (arXiv 2402.19159)."""

from typing import Literal

import torch
from torch import Tensor

from sunlab.diffusion.schedule import Schedule
from sunlab.errors import ConfigError
from sunlab.solvers.base import SOLVERS, Solver
from sunlab.solvers.renoise import Paths, paths, renoise
from sunlab.types import END, Denoiser


@SOLVERS.register("tcd")
class TCD(Solver):
    """Jump past the next time s, to u = (1 - gamma) s, then noise back up to s.

    x_u = alpha_u x_0 + sigma_u epsilon, x_s = r x_u + sqrt(1 - r^2) z, r = alpha_s / alpha_u. The noise z is keyed by
    `seed`, by the state that a sample starts from, and by s.

    Args:
        gamma: 0 is DDIM, deterministic; 1 jumps all the way, nearly as `lcm` does (diffusers calls it `eta`).
        seed: of the noise.
        end: where the step to the clean end arrives: `first_step`, at t = 0, which still has sigma_0 of noise, as the
            authors' code and diffusers' TCDScheduler do; `clean`, at x_0.

    Raises:
        ConfigError: gamma outside [0, 1].
    """

    def __init__(
        self, schedule: Schedule, *, gamma: float = 0.3, seed: int = 0, end: Literal["first_step", "clean"] = "first_step"
    ):
        super().__init__(schedule)
        if not 0 <= gamma <= 1:
            raise ConfigError(f"solver.gamma is a share, 0 to 1, got {gamma}")
        self.gamma, self.seed, self.end = gamma, seed, 0 if end == "first_step" else END

    def step(
        self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Paths | None = None
    ) -> tuple[Tensor, Paths | None]:
        prediction = denoise(x, t)
        still, s = t == s, s.clamp(min=self.end)
        u = torch.where(s > 0, ((1 - self.gamma) * s).floor().to(s.dtype), s)
        alpha_u, sigma_u = self.schedule.at(u, x)
        moved, known = alpha_u * prediction.x_0 + sigma_u * prediction.epsilon, memory
        shape = alpha_u.shape
        if self.gamma > 0:
            known = paths(x, self.seed) if memory is None else memory
            ratio = self.schedule.alpha_sigma(s)[0] / self.schedule.alpha_sigma(u)[0]
            fresh = (1 - ratio**2).clamp(min=0).sqrt()
            moved = ratio.to(x).reshape(shape) * moved + fresh.to(x).reshape(shape) * renoise(known, s, x)
        return torch.where(still.reshape(shape), x, moved), known
