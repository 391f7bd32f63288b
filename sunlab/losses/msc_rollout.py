"""Multi-step consistency, second reading (ours; the paper's text allows three)."""

from itertools import pairwise

import torch
from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.types import Batch


@LOSSES.register("msc_rollout")
class MSCRollout(Loss):
    """The student's own rollout on its grid, each state held to the teacher's at the same time.

    Both start from the same noise: the stored trajectory's, whose states are then the targets at no teacher pass, or fresh
    noise that the live teacher also integrates, on its own grid. The value is the mean over the S states; each is logged.

    Args:
        through: jumps through which gradients flow: the rollout is cut after every so many; null: never cut. With 1 each
            jump learns alone, from the student's own state.
    """

    def __init__(self, *, through: int | None = 1):
        if through is not None and through < 1:
            raise ConfigError(f"loss.through counts jumps: give at least 1, or null for all, got {through}")
        self.through = through

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        times, n = student.times, len(batch)
        if batch.trajectory is not None:
            wanted = [batch.trajectory.at(time.expand(n)) for time in times]
        else:
            wanted = teacher_states(teacher, batch.draws.normal("noise", batch.shape), times)
        x, values = wanted[0], []
        for index, (t, s) in enumerate(pairwise(times)):
            if self.through is not None and index % self.through == 0:
                x = x.detach()
            x = student.jump(x, t.expand(n), s.expand(n))
            values.append(distance(x, wanted[index + 1]))
        logs = {f"loss at {s}": v.detach().mean() for s, v in zip(times[1:].tolist(), values, strict=True)}
        return LossOutput(torch.stack(values).mean(0), times[0].expand(n), times[-1].expand(n), logs)


@torch.no_grad()
def teacher_states(teacher: BoundSampler, noise: Tensor, times: Tensor) -> list[Tensor]:
    """The teacher's states at `times` (K + 1,), integrated on its own grid from `noise` (B, C, H, W), the first of them.

    Raises:
        ConfigError: its grid lacks one of the times.
    """
    missing = sorted(set(times.tolist()) - set(teacher.times.tolist()))
    if missing:
        raise ConfigError(
            f"teacher.steps: a grid of {len(teacher.times) - 1} steps misses the times {missing} of the student's; choose a "
            "multiple of student.steps"
        )
    x, memory, states, n = noise, None, [noise], len(noise)
    for t, s in pairwise(teacher.times):
        x, memory = teacher.solver.step(teacher.denoise, x, t.expand(n), s.expand(n), memory)
        if bool((times == s).any()):
            states.append(x)
    return states
