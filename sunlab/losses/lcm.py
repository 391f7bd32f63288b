"""Latent consistency distillation, as LCM-LoRA's public recipe has it (arXiv 2310.04378, 2311.05556)."""

from typing import Literal

from torch import Tensor

from sunlab.diffusion.prediction import consistency_function
from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.losses.consistency import States, consistency, require_skip
from sunlab.types import Batch


@LOSSES.register("lcm")
class LCM(Loss):
    """Consistency to the clean end: f(x_t, t) = f(x_{t-k}, t - k), with one guided teacher step between (LCM-LoRA).

    The recipe beside it: teacher.solver ddim, teacher.guidance [6, 16] (its w in [5, 15] is meant as c + w (c - u), ours as
    u + w (c - u)), empty negative prompts, distance {name: huber, c: 1e-3}, adapter lora.

    Args:
        skip: k training steps; the student's step i is drawn from the noisiest, 999 for Stable Diffusion, 999 - k, ...
        boundary: `karras`, f = c_skip x + c_out x_0 with c_skip = d^2 / ((10 i)^2 + d^2) and
            c_out = 10 i / sqrt((10 i)^2 + d^2), and i - k stops at step 0; on rectified flow steps sigma / alpha takes the
            place of i, and step 0 is the clean end; `none`, f = x_0, and i - k stops at the clean end: that is
            `msc_segment` with one segment.
        sigma_data: d.
        timestep_scaling: the factor on i in c_skip and c_out, 10 in the recipe.
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
        path = student.solver.path
        end = 0 if self.boundary == "karras" else -path.offset

        def clean(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            prediction = student.denoise(x, t)
            if self.boundary == "none":
                return prediction.x_0
            return consistency_function(
                prediction, path.boundary(t), sigma_data=self.sigma_data, timestep_scaling=self.timestep_scaling
            )

        points = [path.time(i) for i in range(path.last, end, -self.skip)]
        return consistency(
            batch, student, teacher,
            jump=clean, edges=[1.0, path.time(end)], points=points, skip=self.skip, states=self.states,
        ).compared(distance)  # fmt: skip
