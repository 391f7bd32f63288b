"""Regression on the guided teacher's stored trajectories (arXiv 2101.02388, there from the noise to the clean end)."""

from typing import Literal

from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.losses.states import state_at
from sunlab.types import Batch


@LOSSES.register("trajectory")
class TrajectoryRegression(Loss):
    """The student's one jump from a stored state to a later one of the same stored trajectory; no teacher pass.

    t is any of the stored times but the last.

    Args:
        target: the later state: `segment`, at the next time of the student's grid; `next`, the next one stored, which
            reduces no steps unless the bank holds the student's times alone; `end`, the last, in x_0.

    Raises:
        ConfigError: the batch has no stored trajectory.
    """

    def __init__(self, *, target: Literal["segment", "next", "end"] = "segment"):
        self.target = target

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        stored = student.times if batch.trajectory is None else batch.trajectory.times.to(student.times)
        index = batch.draws.integers("state", 0, len(stored) - 1)
        t = stored[index]
        x_t = state_at("teacher", batch, t, index, student)
        assert batch.trajectory is not None  # or `state_at` has said what is missing
        if self.target == "segment":
            s = student.times[(student.times[None, :] >= t[:, None]).sum(1)]
        else:
            s = stored[index + 1] if self.target == "next" else stored[-1].expand_as(t)
        return LossOutput(distance(student.jump(x_t, t, s), batch.trajectory.at(s)), t, s)
