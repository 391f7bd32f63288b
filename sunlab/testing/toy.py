"""Denoisers with known solutions, and a hand-made batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sunlab.diffusion.grid import grid, grid_times
from sunlab.diffusion.path import DiscreteVP, ProbabilityPath, RectifiedFlow
from sunlab.diffusion.prediction import Prediction, target
from sunlab.draws import Draws
from sunlab.types import Batch, Conditioning, PredictionType, Trajectory

SHAPE, TOKENS = (2, 4, 4), (6, 8)  # of a latent, and of a prompt: those of the toy backbone
PATHS: dict[str, ProbabilityPath] = {
    "vp": DiscreteVP.from_betas(),
    "zero_snr": DiscreteVP.from_betas(zero_terminal_snr=True),
    "flow": RectifiedFlow(),
    "shifted_flow": RectifiedFlow(shift=3.0),
}
"""The paths over which losses, solvers and weightings are tested; all but the first end in pure noise, alpha = 0."""
KINDS: dict[str, PredictionType] = {"vp": "epsilon", "zero_snr": "v_prediction", "flow": "flow", "shifted_flow": "flow"}
"""What a toy predicts on each."""


class ToyDenoiser(nn.Module):
    """tanh(a x + b t + c), smooth and bounded, with three learnable numbers; c is the sample's own.

    Args:
        path: alpha(t) and sigma(t).
        kind: what the output means.
        bias: c (B,), by which samples differ, as they do by their prompts; None: 0.
        scale: the initial a.
    """

    def __init__(
        self,
        path: ProbabilityPath,
        *,
        kind: PredictionType = "epsilon",
        bias: Tensor | None = None,
        scale: float = 0.8,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.path, self.kind, self.bias = path, kind, bias
        self.weight = nn.Parameter(torch.tensor([scale, 0.3, 1.0], dtype=dtype))
        self.calls: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor) -> Prediction:
        """x (B, C, H, W), t (B,)."""
        self.calls.append(t)
        alpha, sigma = self.path.at(t, x)
        a, b, c = self.weight.to(x.dtype)
        own = torch.zeros_like(alpha) if self.bias is None else self.bias.to(x).reshape(alpha.shape)
        value = torch.tanh(a * x + b * t.to(x).reshape(alpha.shape) + c * own)
        return Prediction(value, self.kind, x, alpha, sigma)


class PointDenoiser:
    """The exact denoiser of data that are a single point: x_0 is always `point` (C, H, W)."""

    def __init__(self, path: ProbabilityPath, point: Tensor, *, kind: PredictionType = "v_prediction"):
        self.path, self.point, self.kind = path, point, kind

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """x (B, C, H, W), t (B,)."""
        alpha, sigma = self.path.at(t, x)
        point = self.point.to(x).expand_as(x)
        epsilon = torch.where(sigma > 0, (x - alpha * point) / torch.where(sigma > 0, sigma, 1.0), 0.0)
        return Prediction(target(self.kind, point, epsilon, alpha, sigma), self.kind, x, alpha, sigma)


def toy_batch(seeds: Sequence[int], *, path: ProbabilityPath, stored: int = 24) -> Batch:
    """A batch with all that data can offer: latents, and trajectories at the times of a grid of `stored` steps. Each
    sample is a function of its seed alone."""
    draws, times, numbers = Draws(seeds), grid(stored, path=path), grid_times(stored, path=path)
    x_0 = draws.normal("toy x_0", SHAPE)
    noise = draws.normal("toy noise", SHAPE)
    states = torch.stack([path.add_noise(x_0, noise, t.expand(len(seeds))) for t in times], dim=1)
    return Batch(
        positive=Conditioning(draws.normal("toy positive", TOKENS)),
        negative=Conditioning(draws.normal("toy negative", TOKENS)),
        guidance=draws.uniform("toy guidance", 2.0, 8.0),
        draws=draws,
        shape=SHAPE,
        latents=x_0,
        trajectory=Trajectory(states, times, numbers),
    )
