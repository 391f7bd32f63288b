"""Distances between two states, one value a sample."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from registry import Registry


class Distance(ABC):
    """Per-sample distance of two tensors."""

    @abstractmethod
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b (B, ...) -> (B,), the mean over all but the first axis."""


DISTANCES: Registry[Distance] = Registry("distance", base=Distance, entry_points="sunlab.distances")


@DISTANCES.register("l2")
class L2(Distance):
    """Mean squared difference."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().flatten(1).mean(1)


@DISTANCES.register("l1")
class L1(Distance):
    """Mean absolute difference."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().flatten(1).mean(1)


@DISTANCES.register("huber")
class PseudoHuber(Distance):
    """Pseudo-Huber sqrt(d^2 + c^2) - c an element (arXiv 2310.14189, section 3.3, elementwise as in LCM's recipe)."""

    def __init__(self, *, c: float = 0.1):
        if c <= 0:
            raise ValueError(f"c must be positive, got {c}")
        self.c = c

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (torch.sqrt((a - b).square() + self.c**2) - self.c).flatten(1).mean(1)
