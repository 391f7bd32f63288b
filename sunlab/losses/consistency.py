"""Self-consistency along a guided teacher step: what `msc_segment`, `lcm` and `pcm` have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sunlab.diffusion.grid import constant
from sunlab.diffusion.path import per_sample
from sunlab.errors import ConfigError
from sunlab.losses.base import BoundSampler, DistanceFunction, LossOutput
from sunlab.losses.states import state_at, stored
from sunlab.types import SAME, Batch

States = Literal["data", "teacher"]
Jump = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t, t, s) -> the student's x_s."""


@dataclass(frozen=True)
class Pair:
    """Both sides of self-consistency: f(x_t, t), and f(x_u, u) without gradient, (B, C, H, W), both at the edge s.

    Attributes:
        t, s: (B,).
        above: the edge over s (B,), where the phase begins.
    """

    carried: Tensor
    target: Tensor
    t: Tensor
    s: Tensor
    above: Tensor

    def compared(self, distance: DistanceFunction) -> LossOutput:
        return LossOutput(distance(self.carried, self.target), self.t, self.s)


def consistency(
    batch: Batch,
    student: BoundSampler,
    teacher: BoundSampler,
    *,
    jump: Jump,
    edges: Sequence[float],
    points: Sequence[float],
    skip: int,
    states: States,
    pure_start: bool = False,
) -> Pair:
    """f(x_t, t) and sg f(x_u, u): x_u is one guided teacher step from x_t, and f carries both to the edge s below t
    (arXiv 2303.01469, definition 1, with the edges of arXiv 2405.18407; the target is the same student without gradient). At
    u = s nothing is left to carry, which is the boundary condition.

    Args:
        jump: f.
        edges: K + 1 times, descending.
        points: the times from which t is drawn; with `states: teacher` it is drawn from the stored ones instead.
        skip: k training steps, u = max(t - k, s).
        states: `data`, forward-noised; `teacher`, a stored trajectory's: the student learns at the stored times alone and is
            evaluated between them, so the trajectory dataset must hold many more times than the student's grid.
        pure_start: see `state_at`; the published recipes noise the data forward at the first time too.

    Raises:
        ConfigError: the data do not offer what `states` needs.
    """
    if states == "teacher":
        points = [t for t in stored(batch).grid if t > edges[-1] + SAME]
    device, path = student.times.device, student.solver.path
    t = constant(tuple(points), device)[batch.draws.integers("time", 0, len(points))]
    ends = constant(tuple(edges), device)
    index = below(ends, t)
    s = ends[index]
    if states == "teacher":
        x_t = stored(batch).at(t)
    else:
        x_t = state_at(states, batch, t, torch.zeros_like(t), student, pure_start=pure_start)
    with torch.no_grad():
        u = path.time(path.step(t) - skip)
        there = u < s + SAME
        u = torch.where(there, s, u)
        x_u = teacher.jump(x_t, t, u)
        carried = jump(x_u, torch.where(there, t, u), s)  # at the edge itself the student is never trained
        target = torch.where(per_sample(there, x_u), x_u, carried)
    return Pair(jump(x_t, t, s), target, t, s, ends[index - 1])


def below(grid: Tensor, t: Tensor) -> Tensor:
    """The index of the next time below t (B,) in a descending grid (K + 1,)."""
    return (grid[None, :] > t[:, None] - SAME).sum(1)


def require_skip(skip: int) -> int:
    """Raises `ConfigError` for a step of no length."""
    if skip < 1:
        raise ConfigError(f"loss.skip is the length of the teacher's step in training steps: give at least 1, got {skip}")
    return skip
