"""Weightings of per-sample losses by time. The mean over a batch is computed once, after them."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from registry import Registry
from sunlab.diffusion.path import ProbabilityPath


class Weighting(ABC):
    """Weight of each sample's loss."""

    @abstractmethod
    def __call__(self, path: ProbabilityPath, t: Tensor, s: Tensor) -> Tensor:
        """t, s (B,), the student's jump -> (B,)."""


WEIGHTINGS: Registry[Weighting] = Registry("weighting", base=Weighting, entry_points="sunlab.weightings")


@WEIGHTINGS.register("uniform")
class Uniform(Weighting):
    """All samples alike."""

    def __call__(self, path: ProbabilityPath, t: Tensor, s: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float32)


@WEIGHTINGS.register("min_snr")
class MinSNR(Weighting):
    """min(SNR_t, gamma) / SNR_t in epsilon space (arXiv 2303.09556, equation 8)."""

    def __init__(self, *, gamma: float = 5.0):
        self.gamma = gamma

    def __call__(self, path: ProbabilityPath, t: Tensor, s: Tensor) -> Tensor:
        snr = (2 * path.log_snr(t)).exp()
        return (self.gamma / snr).clamp(max=1).float()


@WEIGHTINGS.register("truncated_snr")
class TruncatedSNR(Weighting):
    """max(SNR_t, 1), of a difference in x_0 (arXiv 2202.00512, section 4)."""

    def __call__(self, path: ProbabilityPath, t: Tensor, s: Tensor) -> Tensor:
        return (2 * path.log_snr(t)).exp().clamp(min=1).float()


@WEIGHTINGS.register("x_0")
class XZero(Weighting):
    """sigma_t^2: the squared error of v becomes that of x_0 (arXiv 2202.00512), so that noisy times weigh as much as others.

    Args:
        floor: the minimum weight; at 0 fine details are not learnt.
    """

    def __init__(self, *, floor: float = 0.1):
        self.floor = floor

    def __call__(self, path: ProbabilityPath, t: Tensor, s: Tensor) -> Tensor:
        _, sigma = path.alpha_sigma(t)
        return sigma.square().clamp(min=self.floor).float()


@WEIGHTINGS.register("inverse_jump")
class InverseJump(Weighting):
    """1 / c^2, for squared distances in x_s, undoes the measure in x_s.

    A unit error of the prediction at x_t moves the x_s of a DDIM step by c.

    Args:
        space: of the prediction. `epsilon`: c = |sigma_s - alpha_s sigma_t / alpha_t|; where x_t is pure noise (alpha_t = 0)
            c is infinite and the weight 0, so that on rectified flow and on schedules of zero terminal SNR the first jump is
            not trained. `v`: c = |sigma_s alpha_t - alpha_s sigma_t| / (alpha_t^2 + sigma_t^2).
    """

    def __init__(self, *, space: Literal["epsilon", "v"] = "epsilon"):
        self.space = space

    def __call__(self, path: ProbabilityPath, t: Tensor, s: Tensor) -> Tensor:
        alpha_t, sigma_t = path.alpha_sigma(t)
        alpha_s, sigma_s = path.alpha_sigma(s)
        if self.space == "v":
            moved = (sigma_s * alpha_t - alpha_s * sigma_t).abs() / (alpha_t**2 + sigma_t**2)
        else:
            moved = (sigma_s - alpha_s * sigma_t / alpha_t).abs()
        return torch.where(moved > 0, moved.clamp(min=1e-6) ** -2, torch.zeros_like(moved)).float()
