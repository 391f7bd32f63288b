"""What a network predicts, and its conversion through the path x_t = alpha x_0 + sigma epsilon.

epsilon; sample, x_0; v_prediction, v = alpha epsilon - sigma x_0 (arXiv 2202.00512); flow, u = epsilon - x_0 (arXiv
2209.03003).
"""

from dataclasses import dataclass, replace
from typing import Protocol, get_args

import torch
from torch import Tensor

from sunlab.diffusion.path import ProbabilityPath
from sunlab.errors import ConfigError
from sunlab.types import PredictionType


@dataclass(frozen=True)
class Prediction:
    """A network's output at a state, readable in any parametrisation.

    Attributes:
        value: the raw output (B, C, H, W).
        kind: what the raw output means.
        x: the state x_t (B, C, H, W).
        alpha, sigma: of each sample, broadcastable to x.
    """

    value: Tensor
    kind: PredictionType
    x: Tensor
    alpha: Tensor
    sigma: Tensor

    @property
    def x_0(self) -> Tensor:
        if self.kind == "sample":
            return self.value
        if self.kind == "epsilon":
            return (self.x - self.sigma * self.value) / self.alpha
        if self.kind == "v_prediction":
            return (self.alpha * self.x - self.sigma * self.value) / (self.alpha**2 + self.sigma**2)
        return (self.x - self.sigma * self.value) / (self.alpha + self.sigma)

    @property
    def epsilon(self) -> Tensor:
        """At sigma = 0, where x_0 does not determine it, that of a sample prediction is 0."""
        if self.kind == "epsilon":
            return self.value
        if self.kind == "sample":
            noisy = self.sigma > 0
            return torch.where(noisy, (self.x - self.alpha * self.value) / torch.where(noisy, self.sigma, 1.0), 0.0)
        if self.kind == "v_prediction":
            return (self.sigma * self.x + self.alpha * self.value) / (self.alpha**2 + self.sigma**2)
        return (self.x + self.alpha * self.value) / (self.alpha + self.sigma)

    @property
    def v(self) -> Tensor:
        if self.kind == "v_prediction":
            return self.value
        return self.alpha * self.epsilon - self.sigma * self.x_0

    @property
    def flow(self) -> Tensor:
        return self.value if self.kind == "flow" else self.epsilon - self.x_0

    def detach(self) -> "Prediction":
        return replace(self, value=self.value.detach(), x=self.x.detach())


class Denoiser(Protocol):
    """One evaluation of a model that is already bound to its prompts and guidance."""

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """Args: x (B, C, H, W), the state at t (B,). The result can be read as x_0, epsilon or v."""
        ...


def recorded(denoise: Denoiser) -> tuple[Denoiser, list[Prediction]]:
    """The same evaluations, and the list that their predictions are appended to."""
    made: list[Prediction] = []

    def evaluate(x: Tensor, t: Tensor) -> Prediction:
        made.append(denoise(x, t))
        return made[-1]

    return evaluate, made


def check_parametrisation(kind: str, path: ProbabilityPath) -> None:
    """Raise `ConfigError` for an unknown parametrisation, or one that carries no information where the path ends in pure
    noise: there epsilon is the state itself, whatever x_0 is (arXiv 2305.08891, section 3.1)."""
    if kind not in (known := get_args(PredictionType)):
        raise ConfigError(f"prediction type {kind!r} is not supported; known: {', '.join(known)}")
    if kind == "epsilon" and float(path.alpha_sigma(1.0)[0]) == 0:
        raise ConfigError(
            "epsilon prediction on a path that ends in pure noise (rectified flow, zero terminal signal-to-noise ratio): at "
            "the first step x_0 = (x - sigma epsilon) / alpha has alpha = 0; set model.prediction_type=v_prediction or "
            "model.zero_terminal_snr=false"
        )


def target(kind: PredictionType, x_0: Tensor, epsilon: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What a network of this kind should output at alpha x_0 + sigma epsilon."""
    if kind == "epsilon":
        return epsilon
    if kind == "sample":
        return x_0
    return alpha * epsilon - sigma * x_0 if kind == "v_prediction" else epsilon - x_0


def guide(positive: Prediction, negative: Prediction, w: Tensor) -> Prediction:
    """Classifier-free guidance e_neg + w (e_pos - e_neg), in the raw parametrisation: all are affine in each other at a
    fixed state, so the choice makes no difference.

    Args:
        w: (B,).
    """
    scale = w.to(positive.value.dtype).reshape(-1, *[1] * (positive.value.dim() - 1))
    return replace(positive, value=torch.lerp(negative.value, positive.value, scale))


def consistency_function(
    prediction: Prediction, boundary: tuple[Tensor, Tensor], *, sigma_data: float, timestep_scaling: float
) -> Tensor:
    """f = c_skip x + c_out x_0 of latent consistency models, the identity at the boundary (arXiv 2310.04378, appendix D).

    c_skip = d^2 / ((k i)^2 + d^2) and c_out = k i / sqrt((k i)^2 + d^2), d = sigma_data and k = timestep_scaling. i is the
    training step on Stable Diffusion's path and steps sigma / alpha on others, so that rectified flow is scaled by the path
    alone; at alpha = 0, f = x_0.

    Args:
        boundary: `ProbabilityPath.boundary` of each sample's time, two of (B,): denominator and numerator of i.
    """
    x = prediction.x
    below, above = (part.double().reshape(-1, *[1] * (x.dim() - 1)) for part in boundary)
    data, scaled = (sigma_data * below) ** 2, timestep_scaling * above
    square = scaled**2 + data
    return (data / square).to(x) * x + (scaled / square.sqrt()).to(x) * prediction.x_0
