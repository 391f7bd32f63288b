"""Distillation of classifier-free guidance alone: the offset, without a reduction of steps."""

from typing import Literal

from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.losses.states import States, guided_at, state_at
from sunlab.types import Batch


@LOSSES.register("cfg")
class CFG(Loss):
    """|e_SUN - e_hat|^2 with e_hat = e(x_t, c_neg) + w (e(x_t, c_pos) - e(x_t, c_neg)).

    Args:
        states: where x_t comes from: any time for `data`, the grid's times for `teacher` and `student`. With `teacher` and
            a trajectory dataset that stores predictions no teacher pass is made.
        space: the parametrisation in which the difference is taken. An epsilon difference vanishes with alpha_t for a
            v-predicting base at the noisiest times; `v` does not.
    """

    def __init__(self, *, states: States = "data", space: Literal["epsilon", "v", "x_0"] = "epsilon"):
        self.states, self.space = states, space

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        index = batch.draws.integers("segment", 0, len(student.times) - 1)
        t = student.times[index]
        if self.states == "data":
            t = student.solver.path.training_time(batch.draws)
        x_t = state_at(self.states, batch, t, index, student)
        wanted = guided_at(batch, teacher, x_t, t, stored=self.states == "teacher")
        return LossOutput(distance(*(getattr(each, self.space) for each in (student.denoise(x_t, t), wanted))), t, t)
