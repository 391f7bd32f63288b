"""Where x_t comes from: forward-noised data, the teacher's stored trajectories, or the student's own rollout."""

from typing import Literal

import torch
from torch import Tensor

from sunlab.diffusion.path import per_sample
from sunlab.diffusion.prediction import Prediction
from sunlab.errors import ConfigError
from sunlab.losses.base import BoundSampler
from sunlab.types import Batch, Trajectory

States = Literal["data", "teacher", "student"]


def state_at(
    states: States, batch: Batch, t: Tensor, step: Tensor, student: BoundSampler, *, pure_start: bool = True
) -> Tensor:
    """x_t (B, C, H, W).

    Args:
        t: (B,), on the student's grid for `teacher` and `student`.
        step: (B,), how many steps of that grid lead from noise to t (for `student`).
        pure_start: for `data`, x_t at the grid's first time is the noise alone, as at sampling; false: it is forward-noised
            there too, with what alpha leaves of the data.

    Raises:
        ConfigError: the data do not offer what `states` needs.
    """
    if states == "teacher":
        trajectory = stored(batch)
        trajectory.require(student.grid[:-1])
        return trajectory.at(t)
    noise = batch.draws.normal("noise", batch.shape)
    if states == "student":
        return student.rollout(noise, step)
    latents = batch.required_latents("loss.states: data", "set loss.states to teacher or student")
    noised = student.solver.path.add_noise(latents, noise, t)
    if not pure_start:
        return noised
    if student.grid[0] < 1:
        return noised
    return noised.where(per_sample(t < 1, noise), noise)


def guided_at(batch: Batch, teacher: BoundSampler, x_t: Tensor, t: Tensor, *, stored: bool) -> Prediction:
    """The guided teacher's prediction at x_t, without gradient.

    Args:
        x_t: (B, C, H, W) at t (B,).
        stored: whether x_t is a state of the batch's trajectories: the prediction is read from them where they have it, at
            no pass.
    """
    v = batch.trajectory.guided_at(t) if stored and batch.trajectory is not None else None
    if v is None:
        with torch.no_grad():
            return teacher.denoise(x_t, t)
    return Prediction(v, "v_prediction", x_t, *teacher.solver.path.at(t, x_t))


def stored(batch: Batch) -> Trajectory:
    """The batch's trajectories. Raises `ConfigError` if the data have none."""
    if batch.trajectory is None:
        raise ConfigError(
            "loss.states: teacher needs stored trajectories; make a trajectory dataset with `sunlab data trajectories` and "
            "set data.source: {name: trajectories, path: FOLDER}, or set loss.states: data"
        )
    return batch.trajectory
