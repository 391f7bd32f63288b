"""DPM-Solver++(2M), the multistep data-prediction solver (arXiv 2211.01095, algorithm 2)."""

from typing import Literal

import torch
from torch import Tensor

from sunlab.diffusion.path import ProbabilityPath
from sunlab.diffusion.prediction import Denoiser
from sunlab.solvers.base import SOLVERS, Solver

Memory = tuple[Tensor, Tensor]
"""x_0 as predicted in the previous step (B, C, H, W), and lambda there (B,); -inf where there was none."""


@SOLVERS.register("dpmpp_2m")
class DPMpp2M(Solver):
    """Second order, one evaluation a step: extrapolates x_0 from this step's and the previous one's.

    The first step, a step to the clean end (lambda is infinite there) and the one after a start at zero signal-to-noise
    are first order, which for the first-order method to the clean end is exact: x_0 itself. That is also what diffusers
    does with `final_sigmas_type: zero`, whatever its `lower_order_final`.

    Args:
        variant: the second-order term; `midpoint` is the paper's algorithm, `heun` the other one of diffusers'
            `solver_type`.
    """

    def __init__(self, path: ProbabilityPath, *, variant: Literal["midpoint", "heun"] = "midpoint"):
        super().__init__(path)
        self.variant = variant

    def step(
        self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Memory | None = None
    ) -> tuple[Tensor, Memory]:
        x_0 = denoise(x, t).x_0
        now = self.path.log_snr(t)
        before_x_0, before = (x_0, torch.full_like(now, -torch.inf)) if memory is None else memory
        still = t == s

        shape = (-1,) + (1,) * (x.dim() - 1)
        on_x, on_x_0, on_change = (c.to(x).reshape(shape) for c in self.coefficients(t, s, now, before))
        moved = on_x * x + on_x_0 * x_0 + on_change * (x_0 - before_x_0)

        keep = still.reshape(shape)
        remembered = torch.where(keep, before_x_0, x_0), torch.where(still, before, now)
        return torch.where(keep, x, moved), remembered

    def coefficients(self, t: Tensor, s: Tensor, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (B,) of x, x_0 and the change of x_0 in x_s, float64, all finite: what is infinite or undefined is
        replaced before it is used, so that no gradient meets 0 * inf."""
        alpha_t, sigma_t = self.path.alpha_sigma(t)
        alpha_s, sigma_s = self.path.alpha_sigma(s)
        ratio = sigma_s / torch.where(sigma_t > 0, sigma_t, 1.0)
        on_x_0 = alpha_s - alpha_t * ratio  # -alpha_s (e^-h - 1), without a logarithm of alpha = 0
        h, h_before = self.path.log_snr(s) - now, now - before
        second = h.isfinite() & (h > 0) & h_before.isfinite() & (h_before > 0)
        h, h_before = torch.where(second, h, 1.0), torch.where(second, h_before, 1.0)
        share = on_x_0 / 2 if self.variant == "midpoint" else alpha_s - on_x_0 / h
        return ratio, on_x_0, torch.where(second, share * h / h_before, 0.0)
