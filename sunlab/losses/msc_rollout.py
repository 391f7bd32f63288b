"""Multi-step consistency, second reading (ours; the paper's text allows three)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput
from sunlab.types import SAME, Batch


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
            batch.trajectory.require(student.grid)
            wanted = [batch.trajectory.at(time.expand(n)) for time in times]
        else:
            wanted = teacher_states(teacher, batch.draws.normal("noise", batch.shape), student.grid)
        x, values = wanted[0], []
        for index, (t, s) in enumerate(pairwise(times)):
            if self.through is not None and index % self.through == 0:
                x = x.detach()
            x = student.jump(x, t.expand(n), s.expand(n))
            values.append(distance(x, wanted[index + 1]))
        logs = {f"loss at t={s:g}": v.detach().mean() for s, v in zip(student.grid[1:], values, strict=True)}
        return LossOutput(torch.stack(values).mean(0), times[0].expand(n), times[-1].expand(n), logs)


@torch.no_grad()
def teacher_states(teacher: BoundSampler, noise: Tensor, grid: Sequence[float]) -> list[Tensor]:
    """The teacher's states at the times of `grid`, integrated on its own grid from `noise` (B, C, H, W), the first of them.

    Raises:
        ConfigError: its grid lacks one of the times.
    """
    kept = [any(abs(t - time) < SAME for time in grid) for t in teacher.grid]
    if sum(kept) < len(grid):
        missing = [time for time in grid if not any(abs(t - time) < SAME for t in teacher.grid)]
        raise ConfigError(
            f"teacher.steps: a grid of {len(teacher.grid) - 1} steps misses the times {missing} of the student's; choose a "
            "multiple of student.steps, and teacher.shift as student.shift"
        )
    x, memory, states, n = noise, None, [noise], len(noise)
    for (t, s), keep in zip(pairwise(teacher.times), kept[1:], strict=True):
        x, memory = teacher.solver.step(teacher.denoise, x, t.expand(n), s.expand(n), memory)
        if keep:
            states.append(x)
    return states
