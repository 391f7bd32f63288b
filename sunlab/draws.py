"""Randomness keyed by sample: every draw is a function of (seed, epoch, sample key, what it is for), so it depends on
neither the number of ranks nor the order of work."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


def keyed_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts.

    >>> keyed_seed(0, "a") == keyed_seed(0, "a") != keyed_seed(0, "b")
    True
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch: one independent stream a sample and purpose.

    Attributes:
        seeds: one seed a sample, length B.
        device, dtype: where and how the numbers are handed out; they are drawn on the CPU in float32, so that they are
            equal on every device.
    """

    seeds: Sequence[int]
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers (B, *shape)."""
        rows = [torch.randn(tuple(shape), generator=g) for g in self._generators(purpose)]
        return torch.stack(rows).to(self.device, self.dtype)

    def uniform(self, purpose: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers in [low, high), (B,)."""
        rows = [torch.rand((), generator=g, dtype=torch.float64) for g in self._generators(purpose)]
        return (low + (high - low) * torch.stack(rows)).to(self.device, self.dtype)

    def integers(self, purpose: str, low: int, high: int) -> Tensor:
        """Whole numbers in [low, high), (B,), int64."""
        rows = [torch.randint(low, high, (), generator=g) for g in self._generators(purpose)]
        return torch.stack(rows).to(self.device)

    def _generators(self, purpose: str) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(keyed_seed(seed, purpose)) for seed in self.seeds]
