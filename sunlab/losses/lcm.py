"""Latent consistency distillation, as LCM-LoRA's public recipe has it (arXiv 2310.04378, 2311.05556)."""

from typing import Literal

import torch
from torch import Tensor

from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.losses.consistency import States, consistency, require_skip
from sunlab.types import END, Batch


@LOSSES.register("lcm")
class LCM(Loss):
    """Consistency to the clean end: f(x_t, t) = f(x_{t-k}, t - k), with one guided teacher step between (LCM-LoRA).

    The recipe beside it: teacher.solver ddim, teacher.guidance [6, 16] (its w in [5, 15] is meant as c + w (c - u), ours as
    u + w (c - u)), empty negative prompts, distance {name: huber, c: 1e-3}, adapter lora.

    Args:
        skip: k; t is drawn from 999, 999 - k, ...
        boundary: `karras`, f = c_skip x + c_out x_0 with c_skip = d^2 / ((10 t)^2 + d^2) and
            c_out = 10 t / sqrt((10 t)^2 + d^2), and t - k stops at 0; `none`, f = x_0, and t - k stops at the clean end:
            that is `msc_segment` with one segment.
        sigma_data: d.
        timestep_scaling: the factor on t in c_skip and c_out, 10 in the recipe.
        states: where x_t comes from; `data`, forward-noised at every time, in the recipe.
    """

    def __init__(
        self,
        *,
        skip: int = 20,
        boundary: Literal["karras", "none"] = "karras",
        sigma_data: float = 0.5,
        timestep_scaling: float = 10.0,
        states: States = "data",
    ):
        self.skip, self.boundary, self.states = require_skip(skip), boundary, states
        self.sigma_data, self.timestep_scaling = sigma_data, timestep_scaling

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        last = student.solver.schedule.steps - 1
        end = 0 if self.boundary == "karras" else END
        edges = torch.tensor([last, end]).to(student.times)

        def clean(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            x_0 = student.denoise(x, t).x_0
            if self.boundary == "none":
                return x_0
            scaled = (self.timestep_scaling * t.double()).reshape(-1, 1, 1, 1)
            square = scaled**2 + self.sigma_data**2
            return (self.sigma_data**2 / square).to(x) * x + (scaled / square.sqrt()).to(x) * x_0

        points = torch.arange(last, end, -self.skip)
        return consistency(
            batch, student, teacher, distance,
            jump=clean, edges=edges, points=points, skip=self.skip, states=self.states,
        )  # fmt: skip
