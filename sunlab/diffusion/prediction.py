"""What a model predicts, and its conversion: epsilon <-> x_0 <-> v (v = alpha epsilon - sigma x_0, arXiv 2202.00512)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sunlab.diffusion.schedule import Schedule
from sunlab.errors import ConfigError
from sunlab.types import PredictionType


@dataclass(frozen=True)
class Prediction:
    """A model's output at a state, readable in any parametrisation.

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
        if self.kind == "epsilon":
            return (self.x - self.sigma * self.value) / self.alpha
        return self.alpha * self.x - self.sigma * self.value

    @property
    def epsilon(self) -> Tensor:
        if self.kind == "epsilon":
            return self.value
        return self.sigma * self.x + self.alpha * self.value

    @property
    def v(self) -> Tensor:
        if self.kind == "v_prediction":
            return self.value
        return self.alpha * self.value - self.sigma * self.x_0

    def detach(self) -> "Prediction":
        return Prediction(self.value.detach(), self.kind, self.x.detach(), self.alpha, self.sigma)


def check_parametrisation(kind: str, schedule: Schedule) -> None:
    """Raise `ConfigError` for a parametrisation that is not known, or that says nothing where the schedule ends in pure
    noise: there epsilon is the state itself, whatever x_0 is (arXiv 2305.08891, section 3.1)."""
    if kind not in ("epsilon", "v_prediction"):
        raise ConfigError(f"prediction type {kind!r} is not supported; known: epsilon, v_prediction")
    if kind == "epsilon" and float(schedule.alphas_cumprod[-1]) == 0:
        raise ConfigError(
            "epsilon prediction with a zero terminal signal-to-noise ratio: at the first step x_0 = (x - sigma epsilon) / "
            "alpha has alpha = 0; set model.prediction_type=v_prediction or model.zero_terminal_snr=false"
        )


def target(kind: PredictionType, x_0: Tensor, epsilon: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What a model of this kind should output at alpha x_0 + sigma epsilon."""
    return epsilon if kind == "epsilon" else alpha * epsilon - sigma * x_0


def guide(positive: Prediction, negative: Prediction, w: Tensor) -> Prediction:
    """Classifier-free guidance e_neg + w (e_pos - e_neg), in the raw parametrisation: all three are affine in each other
    at a fixed state, so the choice makes no difference.

    Args:
        w: (B,).
    """
    scale = w.to(positive.value.dtype).reshape(-1, *[1] * (positive.value.dim() - 1))
    value = torch.lerp(negative.value, positive.value, scale)
    return Prediction(value, positive.kind, positive.x, positive.alpha, positive.sigma)
