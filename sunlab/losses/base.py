"""The contract of a loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from registry import Registry
from sunlab.diffusion.grid import Even, between, constant
from sunlab.diffusion.path import ProbabilityPath, per_sample
from sunlab.diffusion.prediction import Denoiser, Prediction, recorded
from sunlab.errors import ConfigError
from sunlab.losses.joint import adamw
from sunlab.types import Batch


class Stepper(Protocol):
    """The part of a solver that a loss uses."""

    path: ProbabilityPath

    def step(self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Any = None) -> tuple[Tensor, Any]: ...

    def solve(self, denoise: Denoiser, x: Tensor, times: Any) -> Tensor: ...


class Network(Protocol):
    """The frozen network itself, bound to a batch's prompts, for the networks of a loss. Gradients flow to x and to what is
    trained; the adapters of the student are off."""

    def __call__(self, x: Tensor, t: Tensor, adapter: Any, *, guided: bool = False) -> Prediction:
        """A pass with `adapter` on; with `guided`, two that are joined by classifier-free guidance as the teacher's are."""
        ...

    def features(self, x: Tensor, t: Tensor) -> Tensor:
        """Hidden states (B, P, h) in its middle, see `Backbone.features`."""
        ...


@dataclass(frozen=True)
class BoundSampler:
    """A denoiser bound to a batch's prompts, the solver that integrates it, and the grid on which it is sampled.

    Attributes:
        denoise: one evaluation. The teacher's is guided and without gradient; the student's is one pass, with gradient.
        solver: its own solver.
        times: the sampling grid, (K + 1,) descending from noise, float64, on the batch's device.
        grid: the same times on the host; () reads them from `times`, which waits for a device.
        network: the teacher's frozen network, for losses with networks of their own.
    """

    denoise: Denoiser
    solver: Stepper
    times: Tensor
    grid: tuple[float, ...] = ()
    network: Network | None = None

    def __post_init__(self) -> None:
        if not self.grid:
            object.__setattr__(self, "grid", tuple(self.times.tolist()))

    def on(self, grid: tuple[float, ...]) -> "BoundSampler":
        """On another grid, K + 1 times."""
        return replace(self, times=constant(grid, self.times.device), grid=grid)

    def recording(self) -> tuple["BoundSampler", list[Prediction]]:
        """This sampler, and the list that its predictions are appended to."""
        denoise, made = recorded(self.denoise)
        return replace(self, denoise=denoise), made

    def jump(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """One solver step from x (B, C, H, W) at t (B,) to s (B,)."""
        return self.solver.step(self.denoise, x, t, s)[0]

    def solve(self, x: Tensor, times: Tensor) -> Tensor:
        """The state at the last of `times`, (K + 1,) or (K + 1, B)."""
        return self.solver.solve(self.denoise, x, times)

    def integrate(self, x: Tensor, t: Tensor, s: Tensor, steps: int, even: Even = "t") -> Tensor:
        """`steps` solver steps from x (B, C, H, W) at t (B,) to s (B,), even in t or in lambda."""
        return self.solve(x, between(self.solver.path, t, s, steps, even))

    @torch.no_grad()
    def rollout(self, noise: Tensor, steps: Tensor) -> Tensor:
        """On-policy states: from noise (B, C, H, W) after `steps` (B,) steps of the grid, 0 ... K - 1, without gradient.
        All samples make K - 1 steps, so that no device is waited for."""
        x = noise
        for index in range(len(self.grid) - 2):
            t, s = self.times[index].expand(len(x)), self.times[index + 1].expand(len(x))
            moved = self.jump(x, t, s)
            x = torch.where(per_sample(steps > index, x), moved, x)
        return x


def network_of(teacher: BoundSampler) -> Network:
    """The frozen network. Raises `ConfigError` for a teacher that was bound without it."""
    if teacher.network is None:
        raise ConfigError("this loss evaluates the frozen network itself: give the teacher's BoundSampler a `network`")
    return teacher.network


class DistanceFunction(Protocol):
    def __call__(self, a: Tensor, b: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class LossOutput:
    """What a loss returns, before weighting and mean.

    Attributes:
        values: per sample (B,).
        t: the time of each sample's student evaluation (B,).
        s: the time to which it jumped (B,), or t itself for a loss in prediction space.
        logs: further scalars to log.
        terms: of a sum, factor and output of each; `values` is their sum.
    """

    values: Tensor
    t: Tensor
    s: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    terms: Sequence[tuple[float, "LossOutput"]] = ()

    def weighted(self, weighting: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The values times `weighting` (t, s) -> (B,); the terms of a sum at their own times."""
        if not self.terms:
            return self.values * weighting(self.t, self.s).to(self.values)
        return torch.stack([factor * term.weighted(weighting) for factor, term in self.terms]).sum(0)


def summed(outputs: Mapping[str, LossOutput], weights: Sequence[float]) -> LossOutput:
    """The weighted sum, with each of the outputs logged by its name. t and s are those of the first."""
    terms, logs = list(zip(weights, outputs.values(), strict=True)), dict[str, Tensor]()
    for name, output in outputs.items():
        logs[f"loss {name}"] = output.values.detach().mean()
        logs |= {f"{name}: {key}": value for key, value in output.logs.items()}
    values = torch.stack([weight * output.values for weight, output in terms]).sum(0)
    return LossOutput(values, terms[0][1].t, terms[0][1].s, logs, terms)


class Loss(ABC):
    """Distils the teacher into the student. One instance is used for the whole training.

    A loss with networks of its own derives from `torch.nn.Module` too and overrides `networks` and `critic_step`: then
    `critic_steps` batches train its networks for each one that trains the student.
    """

    critic_steps: int = 1
    """Optimizer steps of the networks for each of the student's."""

    surrogate: bool = False
    """Whether only the values' gradient has a meaning: they need not fall as the student improves."""

    @abstractmethod
    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        """Per-sample values.

        Args:
            batch: prompts, draws, and whichever of latents and stored trajectories the data offer.
            student: one pass an evaluation, gradients flow.
            teacher: guided, NFE 2 an evaluation, no gradients.
            distance: (B, C, H, W) x 2 -> (B,).
        """

    def prepare(self, backbone: Any) -> None:  # noqa: B027
        """Called once, before the optimizers are made: build networks here whose size depends on the base."""

    def networks(self) -> Sequence[nn.Module]:
        """The networks that this loss trains, submodules of it; they are saved in checkpoints. None by default."""
        return ()

    def critic_step(self, batch: Batch, student: BoundSampler, teacher: BoundSampler) -> Tensor:
        """What the networks minimise, per sample (B,). The student's weights take no gradient meanwhile."""
        raise NotImplementedError(f"{type(self).__name__} has networks, so it needs a critic_step")

    def critic_optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Of the networks; AdamW at 1e-4 by default."""
        return adamw(parameters, lr=1e-4, weight_decay=0.01)


LOSSES: Registry[Loss] = Registry(
    "loss",
    base=Loss,
    entry_points="sunlab.losses",
    components=(
        "sunlab.losses.msc",
        "sunlab.losses.msc_rollout",
        "sunlab.losses.msc_segment",
        "sunlab.losses.cfg",
        "sunlab.losses.dmd",
        "sunlab.losses.lcm",
        "sunlab.losses.pcm",
        "sunlab.losses.progressive",
        "sunlab.losses.sum",
        "sunlab.losses.trajectory",
    ),
)
