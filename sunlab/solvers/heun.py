"""Heun's method (arXiv 2206.00364, algorithm 1)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from sunlab.diffusion.path import ProbabilityPath
from sunlab.diffusion.prediction import Denoiser
from sunlab.solvers.base import SOLVERS, Solver


@SOLVERS.register("heun")
class Heun(Solver):
    """Second order, two evaluations a step: the mean slope of Euler's step; Euler alone in a step to the clean end.

    `solve` on one grid for all samples leaves out the second evaluation of a step to the clean end.

    Args:
        variable: in which the slope is taken. `ratio`: sigma / alpha, as Karras et al. and diffusers' HeunDiscreteScheduler
            do, but in a step from alpha = 0, where it is infinite; `flow`: sigma / (alpha + sigma), which is t on rectified
            flow, as diffusers' FlowMatchHeunDiscreteScheduler does.
    """

    def __init__(self, path: ProbabilityPath, *, variable: Literal["ratio", "flow"] = "ratio"):
        super().__init__(path)
        self.variable = variable

    def step(self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        return self._step(denoise, x, t, s, once=False), None

    def states(self, denoise: Denoiser, x: Tensor, times: Tensor | Sequence[Tensor]) -> Iterator[Tensor]:
        known = isinstance(times, Tensor) and times.dim() == 1 and times.device.type == "cpu"
        ends = times.tolist()[1:] if isinstance(times, Tensor) and known else [None] * (len(times) - 1)
        for (t, s), end in zip(pairwise(self.shared(times, x)), ends, strict=True):
            x = self._step(denoise, x, t.expand(len(x)), s.expand(len(x)), once=end == 0)
            yield x

    def _step(self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, once: bool) -> Tensor:
        """Args: once, all samples go to the clean end."""
        alpha, sigma = self.path.at(s, x)
        first = denoise(x, t)
        euler = alpha * first.x_0 + sigma * first.epsilon
        still, single = (mask.reshape(alpha.shape) for mask in (t == s, (t == s) | (s == 0)))
        euler = torch.where(still, x, euler)
        if once:
            return euler
        # Samples that need no second evaluation repeat the first: the network was not trained at t = 0.
        second = denoise(torch.where(single, x, euler), torch.where((t == s) | (s == 0), t, s))
        on_epsilon, on_flow = (weight.to(x).reshape(alpha.shape) for weight in self._weights(t, s))
        by_epsilon, by_flow = second.epsilon - first.epsilon, second.flow - first.flow
        return torch.where(single, euler, euler + on_epsilon * by_epsilon + on_flow * by_flow)

    def _weights(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (B,), float64, of the change of epsilon and of that of epsilon - x_0, beside Euler's step; one is 0."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.path.alpha_sigma(t), self.path.alpha_sigma(s)
        by_ratio = (alpha_t > 0) & (self.variable == "ratio")
        ratio = sigma_t / torch.where(alpha_t > 0, alpha_t, 1.0)
        on_flow = (sigma_s - (alpha_s + sigma_s) * sigma_t / (alpha_t + sigma_t)) / 2
        return torch.where(by_ratio, (sigma_s - alpha_s * ratio) / 2, 0.0), torch.where(by_ratio, 0.0, on_flow)
