"""UniPC of order 2, data prediction (arXiv 2302.04867, algorithms 5 and 6 with B(h) = e^h - 1)."""

from typing import NamedTuple

import torch
from torch import Tensor

from sunlab.diffusion.path import ProbabilityPath
from sunlab.diffusion.prediction import Denoiser
from sunlab.solvers.base import SOLVERS, Solver
from sunlab.solvers.dpmpp_2m import DPMpp2M


class Memory(NamedTuple):
    """Of the previous step: its corrected state and x_0 (B, C, H, W) at its time t (B,), and x_0 and time of the one before;
    x_0 and t again where there was none."""

    x: Tensor
    x_0: Tensor
    t: Tensor
    before_x_0: Tensor
    before: Tensor


@SOLVERS.register("unipc")
class UniPC(Solver):
    """DPM-Solver++(2M), each step corrected with the x_0 that the next one predicts: third order, one evaluation a step.

    With B(h) = e^h - 1 the predictor of order 2 is DPM-Solver++(2M). The first step's correction is of second order, and the
    step to the clean end, after which nothing is evaluated, has none. diffusers' UniPCMultistepScheduler draws the same with
    `solver_order: 2` and `solver_type: bh2`.
    """

    def __init__(self, path: ProbabilityPath):
        super().__init__(path)
        self.predictor = DPMpp2M(path)

    def step(
        self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Memory | None = None
    ) -> tuple[Tensor, Memory]:
        x_0 = denoise(x, t).x_0
        memory = Memory(x, x_0, t, x_0, t) if memory is None else memory
        corrected = self._corrected(x_0, t, memory)
        shape = (-1,) + (1,) * (x.dim() - 1)
        levels = self.path.log_snr(t), self.path.log_snr(memory.t)
        on_x, on_x_0, on_change = (c.to(x).reshape(shape) for c in self.predictor.coefficients(t, s, *levels))
        moved = on_x * corrected + on_x_0 * x_0 + on_change * (x_0 - memory.x_0)
        latest, keep = Memory(corrected, x_0, t, memory.x_0, memory.t), t == s
        held = (torch.where(keep.reshape(shape[: new.dim()]), old, new) for old, new in zip(memory, latest, strict=True))
        return torch.where(keep.reshape(shape), x, moved), Memory(*held)

    def _corrected(self, x_0: Tensor, t: Tensor, memory: Memory) -> Tensor:
        """The state at t from the previous step's, with x_0 as predicted at t. Where there was none, the state itself."""
        now, at, before = (self.path.log_snr(time) for time in (t, memory.t, memory.before))
        on_x, on_x_0, _ = self.predictor.coefficients(memory.t, t, at, at)
        h, h_before = now - at, at - before
        third = h.isfinite() & (h > 0) & (h_before > 0)
        known = third & h_before.isfinite()  # else the step before began in pure noise
        h, ratio = torch.where(third, h, 1.0), torch.where(known, h_before / h, 1.0)
        inverse = 1 / torch.expm1(-h)
        b_1 = -1 / h - inverse
        b_2 = -2 * b_1 / h - inverse
        rho_1 = torch.where(known, (b_1 - b_2) / (1 + ratio), 0.0)
        rho_2 = torch.where(third, b_1 - rho_1, 0.5)
        weights = (c.to(x_0).reshape((-1,) + (1,) * (x_0.dim() - 1)) for c in (on_x, on_x_0, rho_1 / ratio, rho_2))
        on_x, on_x_0, on_former, on_change = weights
        former, change = memory.x_0 - memory.before_x_0, x_0 - memory.x_0
        return on_x * memory.x + on_x_0 * (memory.x_0 + on_former * former + on_change * change)
