"""Denoisers small enough to reason about, and a batch made by hand."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sunlab.diffusion.prediction import Prediction, target
from sunlab.diffusion.schedule import Schedule
from sunlab.diffusion.timesteps import grid
from sunlab.draws import Draws
from sunlab.types import Batch, Conditioning, PredictionType, Trajectory

SHAPE = (2, 3, 3)


class ToyDenoiser(nn.Module):
    """tanh(a x + b t / T + c), smooth and bounded, with three learnable numbers; c is the sample's own.

    Args:
        schedule: the noise schedule.
        kind: what the output means.
        bias: c (B,), by which samples differ, as they do by their prompts; None: 0.
        scale: the initial a.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        kind: PredictionType = "epsilon",
        bias: Tensor | None = None,
        scale: float = 0.8,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.schedule, self.kind, self.bias = schedule, kind, bias
        self.weight = nn.Parameter(torch.tensor([scale, 0.3, 1.0], dtype=dtype))
        self.calls: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor) -> Prediction:
        """x (B, C, H, W), t (B,)."""
        self.calls.append(t)
        alpha, sigma = self.schedule.at(t, x)
        a, b, c = self.weight.to(x.dtype)
        own = torch.zeros_like(alpha) if self.bias is None else self.bias.to(x).reshape(alpha.shape)
        value = torch.tanh(a * x + b * t.to(x).reshape(alpha.shape) / self.schedule.steps + c * own)
        return Prediction(value, self.kind, x, alpha, sigma)


class PointDenoiser:
    """The exact denoiser of data that are a single point: x_0 is always `point` (C, H, W)."""

    def __init__(self, schedule: Schedule, point: Tensor, *, kind: PredictionType = "v_prediction"):
        self.schedule, self.point, self.kind = schedule, point, kind

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """x (B, C, H, W), t (B,)."""
        alpha, sigma = self.schedule.at(t, x)
        point = self.point.to(x).expand_as(x)
        epsilon = torch.where(sigma > 0, (x - alpha * point) / torch.where(sigma > 0, sigma, 1.0), 0.0)
        return Prediction(target(self.kind, point, epsilon, alpha, sigma), self.kind, x, alpha, sigma)


def toy_batch(seeds: Sequence[int], *, schedule: Schedule, stored: int = 24) -> Batch:
    """A batch with all that data can offer: latents, and trajectories at the times of a grid of `stored` steps. Each
    sample is a function of its seed alone."""
    draws, times = Draws(seeds), grid(stored)
    x_0 = draws.normal("toy x_0", SHAPE)
    noise = draws.normal("toy noise", SHAPE)
    states = torch.stack([schedule.add_noise(x_0, noise, t.expand(len(seeds))) for t in times], dim=1)
    return Batch(
        positive=Conditioning(draws.normal("toy positive", (5, 4))),
        negative=Conditioning(draws.normal("toy negative", (5, 4))),
        guidance=draws.uniform("toy guidance", 2.0, 8.0),
        draws=draws,
        shape=SHAPE,
        latents=x_0,
        trajectory=Trajectory(states, times),
    )
