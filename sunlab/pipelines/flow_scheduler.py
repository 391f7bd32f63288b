"""A scheduler of diffusers' that draws on rectified flow with a solver of ours, in every pipeline."""

from collections.abc import Sequence
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from torch import Tensor

from sunlab.diffusion.grid import grid_times, shifted
from sunlab.diffusion.path import RectifiedFlow
from sunlab.diffusion.prediction import Prediction
from sunlab.solvers import SOLVERS

FLOW_SOLVERS = ("ddim", "euler", "dpmpp_2m", "lcm", "tcd")
"""Solvers of one evaluation a step, which a pipeline's loop can run."""


class FlowScheduler(FlowMatchEulerDiscreteScheduler):
    """FlowMatchEulerDiscreteScheduler with a solver of `FLOW_SOLVERS` in place of Euler's method.

    It has what diffusers' pipelines read of the schedulers of variance-preserving models, `init_noise_sigma` and
    `scale_model_input`, so that PixArt's run it. Times are kept in float64, as our solvers take them.

    Args:
        num_train_timesteps: the network's time is so many times t.
        shift: of the times that `set_timesteps` is given as `sigmas`.
        solver: its name, with its default parameters.
    """

    init_noise_sigma = 1.0

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, shift: float = 1.0, solver: str = "ddim"):
        super().__init__(num_train_timesteps=num_train_timesteps, shift=shift)
        self._path = RectifiedFlow(shift=shift, steps=num_train_timesteps)
        self._solver = SOLVERS.get(solver).factory(self._path)
        self._times: Tensor = self.sigmas.double()
        self._memory: Any = None

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is."""
        return sample

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, sigmas: Sequence[float] | None = None, **more: Any
    ) -> None:
        """See FlowMatchEulerDiscreteScheduler. A number of steps alone gives the trailing grid."""
        if sigmas is None and num_inference_steps is not None and more.get("timesteps") is None:
            sigmas = grid_times(num_inference_steps)[:-1]
        super().set_timesteps(num_inference_steps, device, None if sigmas is None else list(sigmas), **more)
        self._memory, self._times = None, self.sigmas.double()
        if sigmas is not None:
            exact = [shifted(float(sigma), self.shift) for sigma in sigmas]
            self._times[: len(exact)] = self._times.new_tensor(exact)

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, return_dict: bool = True, **more: Any
    ) -> Any:
        """The sample at the next time. Args: see FlowMatchEulerDiscreteScheduler; those of its noise have no effect."""
        if self.step_index is None:
            self._init_step_index(timestep)
        t, s = (time.expand(len(sample)) for time in self._times[self.step_index : self.step_index + 2])
        x = sample.float()
        prediction = Prediction(model_output.float(), "flow", x, *self._path.at(t, x))
        moved, self._memory = self._solver.step(lambda *_: prediction, x, t, s, self._memory)
        self._step_index += 1
        moved = moved.to(model_output.dtype)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=moved) if return_dict else (moved,)
