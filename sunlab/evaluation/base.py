"""The contract of a metric."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor

from registry import Registry


class Metric(ABC):
    """Compares pictures drawn from the same prompts and seeds, batch by batch. One instance is one comparison.

    Attributes:
        sees: what `update` is handed: the pictures, or an extractor's features of them.
        paired: whether the value is the mean of a distance of each pair, which `each` gives, and so can be read as a
            share of another distance.
        splits: whether the value of a subset estimates the same quantity as that of the whole, so that disjoint subsets
            give an interval.
    """

    sees: ClassVar[Literal["pictures", "features"]] = "pictures"
    paired: ClassVar[bool] = False
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
    components=("sunlab.evaluation.paired", "sunlab.evaluation.kernel", "sunlab.evaluation.frechet"),
)
