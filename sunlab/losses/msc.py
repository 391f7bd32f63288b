"""Multi-step consistency, first reading (ours; the paper's text allows three)."""

from typing import Literal

import torch

from sunlab.diffusion.grid import Even, grid_times
from sunlab.errors import ConfigError
from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput, summed
from sunlab.losses.states import States, guided_at, state_at
from sunlab.types import Batch


@LOSSES.register("msc")
class MSC(Loss):
    """The student's one jump to a segment's end, held to several guided teacher steps from the same state.

    The error is measured in x_s, the state from which sampling continues. With `offset` the student's prediction at x_t,
    from which it jumps, is also held to the guided teacher's there, in v: the offset that guidance causes, as the loss `cfg`
    has it, at no pass of the student.

    Args:
        segments: segments of the grid; null: the student's steps.
        substeps: guided teacher steps from t to the segment's end s.
        even: whether they are even in t or in lambda = log(alpha / sigma).
        states: where x_t comes from; with `teacher` the stored trajectory is also the target, at no teacher pass.
        offset: weight of the distance in v beside that of the jump. It needs no teacher pass where the teacher integrates
            from x_t or the trajectory dataset stores predictions, else one guided evaluation (NFE 2).
        start: `grid`, t is the segment's start, as at sampling; `uniform`, any time in the segment (for `states: data`
            alone: trajectories and rollouts have states at the grid's times only).
    """

    def __init__(
        self,
        *,
        segments: int | None = None,
        substeps: int = 6,
        even: Even = "t",
        states: States = "data",
        offset: float = 0.0,
        start: Literal["grid", "uniform"] = "grid",
    ):
        if start == "uniform" and states != "data":
            raise ConfigError(f"loss.start: uniform needs loss.states: data, there are no {states} states between the times")
        if offset < 0:
            raise ConfigError(f"loss.offset is the weight of the offset's error: give 0 or more, got {offset}")
        self.segments, self.substeps, self.even, self.states, self.start = segments, substeps, even, states, start
        self.offset = offset

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        if self.segments is not None:
            student = student.on(grid_times(self.segments, path=student.solver.path))
        times, path = student.times, student.solver.path
        index = batch.draws.integers("segment", 0, len(times) - 1)
        t, s = times[index], times[index + 1]
        if self.start == "uniform":
            steps = path.step(t) - path.step(s)
            t = path.time(path.step(s) + 1 + torch.minimum((steps * batch.draws.uniform("within")).floor(), steps - 1))
        x_t = state_at(self.states, batch, t, index, student)
        student, made = student.recording()
        teacher, wanted = teacher.recording()
        if self.states == "teacher" and batch.trajectory is not None:
            batch.trajectory.require(student.grid)
            target = batch.trajectory.at(s)
            if self.offset:
                wanted = [guided_at(batch, teacher, x_t, t, stored=True)]
        else:
            with torch.no_grad():
                target = teacher.integrate(x_t, t, s, self.substeps, self.even)
        jump = LossOutput(distance(student.jump(x_t, t, s), target), t, s)
        if not self.offset:
            return jump
        return summed({"jump": jump, "offset": LossOutput(distance(made[0].v, wanted[0].v), t, t)}, [1.0, self.offset])
