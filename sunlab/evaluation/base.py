"""The contract of a metric."""

from abc import ABC, abstractmethod

from torch import Tensor

from registry import Registry


class Metric(ABC):
    """Compares pictures drawn from the same prompts and seeds, batch by batch. One instance is one comparison."""

    @abstractmethod
    def update(self, before: Tensor, after: Tensor) -> None:
        """Take in pairs.

        Args:
            before: the reference, the 25-step pictures for instance, (B, 3, H, W) float in [0, 1].
            after: the pictures to judge, likewise.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The values over all pairs so far, by name. Raises `ValueError` where there were none."""


METRICS: Registry[Metric] = Registry(
    "metric",
    base=Metric,
    entry_points="sunlab.metrics",
    plugs=("sunlab.evaluation.paired",),
)
