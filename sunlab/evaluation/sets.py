"""Metrics of two whole sets of features, which are kept until they are asked for."""

from abc import abstractmethod

import torch
from torch import Tensor

from sunlab.evaluation.base import Metric

LEAST = 2  # pairs


class SetMetric(Metric):
    """Keeps the features of both sets, row i of both from the same prompts and seed."""

    sees = "features"

    def __init__(self) -> None:
        self._before: list[Tensor] = []
        self._after: list[Tensor] = []

    def update(self, before: Tensor, after: Tensor) -> None:
        require_features(before, after)
        self._before.append(before)
        self._after.append(after)

    def compute(self) -> dict[str, float]:
        pairs = sum(map(len, self._before))
        if pairs < LEAST:
            raise ValueError(f"{type(self).__name__} of {pairs} pairs: at least {LEAST} are needed")
        return self.of(torch.cat(self._before).double(), torch.cat(self._after).double())

    @abstractmethod
    def of(self, before: Tensor, after: Tensor) -> dict[str, float]:
        """The values of two sets (N, D) float64, N >= 2."""


def require_features(before: Tensor, after: Tensor) -> None:
    """Raise `ValueError` unless both are features (B, D) of equal shape."""
    if before.shape != after.shape or before.ndim != 2:
        raise ValueError(f"expected pairs of features (B, D), got {tuple(before.shape)} and {tuple(after.shape)}")
