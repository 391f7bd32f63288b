"""Euler's method in sigma / alpha (arXiv 2206.00364, algorithm 1 without its correction)."""

from typing import Any

import torch
from torch import Tensor

from sunlab.diffusion.schedule import Schedule
from sunlab.errors import ConfigError
from sunlab.solvers.base import SOLVERS, Solver
from sunlab.types import Denoiser


@SOLVERS.register("euler")
class Euler(Solver):
    """First order, in Karras's variables x / alpha and sigma / alpha, where epsilon is the slope.

    With variance-preserving states, as everywhere in sunlab, it is DDIM up to rounding; it is here to be compared with
    other implementations, and as the first half of `heun`.

    Raises:
        ConfigError: a start at zero signal-to-noise, where sigma / alpha is infinite.
    """

    def step(self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        ratio_t, alpha_t = karras(self.schedule, t, x)
        ratio_s, alpha_s = karras(self.schedule, s, x)
        moved = alpha_s * (x / alpha_t + (ratio_s - ratio_t) * denoise(x, t).epsilon)
        return torch.where((t == s).reshape(ratio_t.shape), x, moved), None


def karras(schedule: Schedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sigma_t / alpha_t and alpha_t, ready to be multiplied with `like` (B, ...); t (B,). Raises as `Euler` does."""
    alpha, sigma = schedule.alpha_sigma(t)
    if bool((alpha == 0).any()):
        raise ConfigError(
            f"sigma / alpha is infinite at t = {t[alpha == 0][0].item()}: this schedule ends in pure noise "
            "(zero_terminal_snr), where the solvers euler and heun cannot start; use ddim or dpmpp_2m, or "
            "spacing: leading, which starts below it"
        )
    shape = (-1,) + (1,) * (like.dim() - 1)
    return (sigma / alpha).to(like).reshape(shape), alpha.to(like).reshape(shape)
