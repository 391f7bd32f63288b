"""The contract of a solver."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from torch import Tensor

from registry import Registry
from sunlab.diffusion.grid import check_times
from sunlab.diffusion.path import ProbabilityPath
from sunlab.diffusion.prediction import Denoiser
from sunlab.transfer import sent


class Solver(ABC):
    """Moves states along times. Times may differ from sample to sample.

    A solver keeps no state between calls: the history of a multistep method is passed from step to step as `memory`, None
    at the start.
    """

    end: float = 0.0  # the time at which a solution to t = 0 arrives

    def __init__(self, path: ProbabilityPath):
        self.path = path

    @abstractmethod
    def step(self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        """One step from x at t to s.

        Args:
            x: (B, C, H, W).
            t, s: (B,), float64, t >= s. Where t = s the state stays as it is.
            memory: what the previous step returned.

        Returns:
            x at s, and the memory for the next step.
        """

    def states(self, denoise: Denoiser, x: Tensor, times: Tensor | Sequence[Tensor]) -> Iterator[Tensor]:
        """The state at each of `times` after the first: (K + 1,) shared by the batch, on any device, or (K + 1, B)."""
        memory = None
        for t, s in pairwise(self.shared(times, x)):
            x, memory = self.step(denoise, x, t.expand(len(x)), s.expand(len(x)), memory)
            yield x

    @staticmethod
    def shared(times: Tensor | Sequence[Tensor], x: Tensor) -> Tensor | Sequence[Tensor]:
        """A grid on the device of x; times of each sample as they are."""
        return sent(times, x.device) if isinstance(times, Tensor) and times.dim() == 1 else times

    def solve(self, denoise: Denoiser, x: Tensor, times: Tensor | Sequence[Tensor]) -> Tensor:
        """The state at the last of `times`."""
        for x in self.states(denoise, x, times):  # noqa: B007, B020
            pass
        return x


@dataclass(frozen=True)
class Sampler:
    """How a model is sampled: a solver on a grid.

    Attributes:
        solver: of the probability-flow ODE.
        times: (K + 1,) descending, float64, on the CPU; the last is 0.
        shift: of these times; a grid of another number of steps has the same.

    Raises:
        ConfigError: times that are no grid.
    """

    solver: Solver
    times: Tensor
    shift: float = 1.0

    def __post_init__(self) -> None:
        check_times(self.grid)

    @cached_property
    def grid(self) -> tuple[float, ...]:
        """`times` as numbers."""
        return tuple(self.times.tolist())

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
        "sunlab.solvers.heun",
        "sunlab.solvers.lcm",
        "sunlab.solvers.tcd",
        "sunlab.solvers.unipc",
    ),
)
