"""Regression on the guided teacher's stored trajectories (arXiv 2101.02388, there from the noise to the clean end)."""

from typing import Literal

from sunlab.diffusion.grid import constant
from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.losses.consistency import below
from sunlab.losses.states import stored
from sunlab.types import Batch


@LOSSES.register("trajectory")
class TrajectoryRegression(Loss):
    """The student's one jump from a stored state to a later one of the same stored trajectory; no teacher pass.

    t is any of the stored times but the last.

    Args:
        target: the later state: `segment`, at the next time of the student's grid; `next`, the next one stored, which
            reduces no steps unless the trajectory dataset holds the student's times alone; `end`, the last, in x_0.

    Raises:
        ConfigError: the batch has no stored trajectory.
    """

    def __init__(self, *, target: Literal["segment", "next", "end"] = "segment"):
        self.target = target

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        trajectory = stored(batch)
        times = constant(trajectory.grid, student.times.device)
        index = batch.draws.integers("state", 0, len(times) - 1)
        t = times[index]
        if self.target == "segment":
            trajectory.require(student.grid[1:])
            s = student.times[below(student.times, t)]
        else:
            s = times[index + 1] if self.target == "next" else times[-1].expand_as(t)
        return LossOutput(distance(student.jump(trajectory.at(t), t, s), trajectory.at(s)), t, s)
