"""The contracts of a metric, of a feature extractor and of a text alignment."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from registry import Registry


class Metric(ABC):
    """Compares pictures drawn from the same prompts and seeds, batch by batch. One instance is one comparison.

    Attributes:
        sees: what `update` is handed: the pictures, or an extractor's features of them.
        paired: whether the value is the mean of a distance of each pair, which `each` gives, and so can be read as a
            share of another distance.
        shares: whether the values are shares of the pairs, in [0, 1].
        splits: whether the value of a subset estimates the same quantity as that of the whole, so that disjoint subsets
            give an interval.
    """

    sees: ClassVar[Literal["pictures", "features"]] = "pictures"
    paired: ClassVar[bool] = False
    shares: ClassVar[bool] = False
    splits: ClassVar[bool] = True

    @abstractmethod
    def update(self, before: Tensor, after: Tensor) -> None:
        """Take in pairs.

        Args:
            before: the reference, the 25-step pictures for instance, (B, 3, H, W) float in [0, 1]; where the metric sees
                features, (B, D).
            after: the pictures or features to judge, likewise.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The values over all pairs so far, by name. Raises `ValueError` where there were none, or too few."""

    def each(self) -> Tensor:
        """The distances (N,) whose mean `compute` gives, where the metric is `paired`."""
        raise NotImplementedError(f"{type(self).__name__} is no mean over pairs")

    def warnings(self, pairs: int) -> list[str]:
        """What a reader of the values over so many pairs must know."""
        return []


METRICS: Registry[Metric] = Registry(
    "metric",
    base=Metric,
    entry_points="sunlab.metrics",
    components=("sunlab.evaluation.paired", "sunlab.evaluation.sets", "sunlab.lab.content"),
)


class Extractor(ABC):
    """A frozen network for pictures, loaded in its first call.

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
    components=("sunlab.evaluation.imagenet", "sunlab.evaluation.clip"),
)


class Alignment(ABC):
    """Scores pictures against their prompts; networks are loaded in its first call."""

    @abstractmethod
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Values (B,) of each picture, by name; NaN where the prompt does not name what is judged.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Raises:
            ConfigError: what it needs is not there.
        """


ALIGNMENTS: Registry[Alignment] = Registry(
    "text alignment",
    base=Alignment,
    entry_points="sunlab.alignments",
    components=("sunlab.evaluation.clip", "sunlab.lab.alignment"),
)
