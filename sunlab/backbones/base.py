"""The contract of a backbone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from registry import Registry
from sunlab.backbones.attention import Attachment, Extension, TextAttention, TokenContext
from sunlab.diffusion.path import ProbabilityPath
from sunlab.diffusion.prediction import Prediction
from sunlab.types import Conditioning, PredictionType


class Backbone(nn.Module, ABC):
    """A denoising network with the probability path that it was trained on.

    Attributes:
        unet: the wrapped network, whose parameters these are.
        path: alpha(t) and sigma(t).
        prediction_type: what its output means.
        sample_shape: (C, H, W) of its latents.
    """

    unet: nn.Module
    path: ProbabilityPath
    prediction_type: PredictionType
    sample_shape: tuple[int, int, int]

    def network_time(self, t: Tensor) -> Tensor:
        """What the network takes for t in [0, 1] (B,), float32: the training step."""
        return self.path.step(t).float()

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        """The raw output (B, C, H, W) at x (B, C, H, W), t in [0, 1] (B,). `state` reaches the attached extensions in
        this pass alone; without one they are off."""

    @abstractmethod
    def context(self, conditioning: Conditioning) -> TokenContext:
        """The prompt exactly as the attention layers receive it."""

    @abstractmethod
    def text_attention(self) -> Mapping[str, TextAttention]:
        """The layers that an adapter may extend, by path, in the network's order."""

    @abstractmethod
    def extend(self, extensions: Mapping[str, Extension]) -> Attachment:
        """Attach extensions to layers of `text_attention`, by path; on top of those that are there.

        Raises:
            ConfigError: a layer runs code of another library that cannot be composed with; nothing has been changed then.
        """

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Prediction:
        value = self.predict(x, t, conditioning, state)
        alpha, sigma = self.path.at(t, x)
        return Prediction(value, self.prediction_type, x, alpha, sigma)


BACKBONES: Registry[Backbone] = Registry(
    "backbone",
    base=Backbone,
    entry_points="sunlab.backbones",
    components=("sunlab.backbones.sd.unet",),
)
