"""The contract of a backbone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from registry import Registry
from sunlab.diffusion.path import DiscreteVP, ProbabilityPath
from sunlab.diffusion.prediction import Prediction
from sunlab.diffusion.schedule import Schedule
from sunlab.types import Conditioning, PredictionType


class Backbone(nn.Module, ABC):
    """A noise-prediction network with the schedule that it was trained on.

    Attributes:
        unet: the wrapped network, whose parameters these are.
        schedule: its noise schedule.
        prediction_type: what its output means.
        sample_shape: (C, H, W) of its latents.
    """

    unet: nn.Module
    schedule: Schedule
    prediction_type: PredictionType
    sample_shape: tuple[int, int, int]

    @cached_property
    def path(self) -> ProbabilityPath:
        """The probability path that the network was trained on."""
        return DiscreteVP(self.schedule.alphas_cumprod)

    def network_time(self, t: Tensor) -> Tensor:
        """What the network takes for t in [0, 1] (B,), float32: the training step."""
        return self.path.step(t).float()

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, inputs: Mapping[str, Any] | None = None) -> Tensor:
        """The raw output (B, C, H, W) at x (B, C, H, W), t (B,); `inputs` are an adapter's further keyword arguments."""

    def forward(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, inputs: Mapping[str, Any] | None = None
    ) -> Prediction:
        value = self.predict(x, t, conditioning, inputs)
        alpha, sigma = self.schedule.at(t, x)
        return Prediction(value, self.prediction_type, x, alpha, sigma)


BACKBONES: Registry[Backbone] = Registry(
    "backbone",
    base=Backbone,
    entry_points="sunlab.backbones",
    components=("sunlab.backbones.diffusers_unet",),
)
