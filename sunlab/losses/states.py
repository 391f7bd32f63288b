"""Where x_t comes from: forward-noised data, the teacher's stored trajectories, or the student's own rollout."""

from typing import Literal

from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.losses.base import BoundSampler
from sunlab.types import Batch

States = Literal["data", "teacher", "student"]


def state_at(
    states: States, batch: Batch, t: Tensor, step: Tensor, student: BoundSampler, *, pure_start: bool = True
) -> Tensor:
    """x_t (B, C, H, W).

    Args:
        t: (B,).
        step: (B,), how many steps of the student's grid lead from noise to t (for `student`).
        pure_start: for `data`, x_t at the grid's first time is the noise alone, as at sampling; false: it is forward-noised
            there too, with what alpha leaves of the data.

    Raises:
        ConfigError: the data do not offer what `states` needs.
    """
    if states == "teacher":
        if batch.trajectory is None:
            raise ConfigError(
                "states: teacher needs stored trajectories; make a bank with `sunlab data trajectories` and set "
                "data.source: {name: trajectories, path: BANK}, or choose states: data"
            )
        return batch.trajectory.at(t)
    noise = batch.draws.normal("noise", batch.shape)
    if states == "student":
        return student.rollout(noise, step)
    if batch.latents is None:
        raise ConfigError("states: data needs images or latents, and this source has prompts only")
    noised = student.solver.schedule.add_noise(batch.latents, noise, t)
    if not pure_start:
        return noised
    pure = (t == student.times[0]) & (student.times[0] == student.solver.schedule.steps - 1)
    return noised.where(~pure.reshape(-1, 1, 1, 1), noise)
