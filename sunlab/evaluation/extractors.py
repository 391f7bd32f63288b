"""The contract of a feature extractor: pictures -> numbers that say what is on them."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from registry import Registry


class Extractor(ABC):
    """A frozen network for pictures, loaded when it is first asked.

    Attributes:
        label: as tables call it.
        width: D, of its features.
    """

    label: str
    width: int

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, D) float32 of pictures (B, 3, H, W) in [0, 1].

        Raises:
            ConfigError: what it needs is not installed, or its file is not there.
        """

    def identity(self) -> str:
        """What the features depend on besides the pictures, as text."""
        return self.label


def prepared(images: Tensor, *, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pictures (B, 3, side, side), bicubic and antialiased, normalised by channel as a network was trained with.

    Args:
        images: (B, 3, H, W) in [0, 1].
    """
    sized = interpolate(images, size=(side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    centre, scale = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (sized - centre) / scale


EXTRACTORS: Registry[Extractor] = Registry(
    "feature extractor",
    base=Extractor,
    entry_points="sunlab.extractors",
    components=("sunlab.evaluation.effnet", "sunlab.evaluation.inception", "sunlab.evaluation.clip"),
)
