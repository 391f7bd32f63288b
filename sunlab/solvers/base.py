"""The contract of a solver."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from registry import Registry
from sunlab.diffusion.schedule import Schedule
from sunlab.types import END, Denoiser


class Solver(ABC):
    """Moves states along times. Times may differ from sample to sample.

    A solver keeps no state between calls: what a multistep method remembers is handed from step to step as `memory`, None
    at the start.
    """

    end: int = END  # the time at which a path that is solved to `END` arrives

    def __init__(self, schedule: Schedule):
        self.schedule = schedule

    @abstractmethod
    def step(self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        """One step from x at t to s.

        Args:
            x: (B, C, H, W).
            t, s: (B,), t >= s, `END` allowed as s. Where t = s the state stays as it is.
            memory: what the previous step returned.

        Returns:
            x at s, and the memory for the next step.
        """

    def states(self, denoise: Denoiser, x: Tensor, times: Tensor | Sequence[Tensor]) -> Iterator[Tensor]:
        """The state at each of `times` after the first: (K + 1,) shared by the batch or (K + 1, B)."""
        memory = None
        for t, s in pairwise(times):
            x, memory = self.step(denoise, x, t.expand(len(x)), s.expand(len(x)), memory)
            yield x

    def solve(self, denoise: Denoiser, x: Tensor, times: Tensor | Sequence[Tensor]) -> Tensor:
        """The state at the last of `times`."""
        for x in self.states(denoise, x, times):  # noqa: B007, B020
            pass
        return x


@dataclass(frozen=True)
class Sampler:
    """How a model is sampled: a solver on a grid of times, (K + 1,) descending, the last is `END`."""

    solver: Solver
    times: Tensor

    @property
    def steps(self) -> int:
        return len(self.times) - 1


SOLVERS: Registry[Solver] = Registry(
    "solver",
    base=Solver,
    entry_points="sunlab.solvers",
    components=(
        "sunlab.solvers.ddim",
        "sunlab.solvers.dpmpp_2m",
        "sunlab.solvers.euler",
        "sunlab.solvers.heun",
        "sunlab.solvers.lcm",
        "sunlab.solvers.tcd",
    ),
)
