"""Randomness keyed by sample: every draw is a function of (seed, epoch, sample key, what it is for), so it depends on
neither the number of ranks nor the order of work."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from math import pi, prod

import torch
from torch import Tensor

from sunlab.philox import LOW, philox
from sunlab.transfer import sent


def keyed_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts.

    >>> keyed_seed(0, "a") == keyed_seed(0, "a") != keyed_seed(0, "b")
    True
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def starting_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The noise (B, *shape), float32, that pictures and stored trajectories with these seeds start from.

    It is drawn by torch's own generator on the CPU: files of trajectories state seeds instead of noise, and a seed gives
    the same picture in every version.
    """
    generators = [torch.Generator().manual_seed(keyed_seed(seed, "noise")) for seed in seeds]
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch: one independent stream a sample and purpose.

    A counter-based generator computes them on the device, keyed by the sample's seed and the purpose. They are equal on
    every device, normal numbers to float rounding.

    Attributes:
        seeds: one seed a sample, 64 bits, length B.
        device, dtype: where and how the numbers are handed out; normal numbers are drawn in float32, uniform ones in
            float64.
    """

    seeds: Sequence[int]
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers (B, *shape), by Box and Muller's transform."""
        count = prod(shape)
        a, b, c, d = self._words(purpose, -(-count // 4))
        radius = torch.stack([a, c], -1).float().mul_(2.0**-32).add_(2.0**-33).log_().mul_(-2).sqrt_()  # of (0, 1]
        angle = torch.stack([b, d], -1).float().mul_(2 * pi * 2.0**-32)
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
        return pairs.flatten(1)[:, :count].reshape(len(self.seeds), *shape).to(self.dtype)

    def uniform(self, purpose: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers in [low, high), (B,)."""
        return (low + (high - low) * self._unit(purpose)).to(self.dtype)

    def integers(self, purpose: str, low: int, high: int) -> Tensor:
        """Whole numbers in [low, high), (B,), int64; at most 2^53 different ones."""
        return low + (self._unit(purpose) * (high - low)).long()

    def _unit(self, purpose: str) -> Tensor:
        """Multiples of 2^-53 in [0, 1), (B,), float64."""
        a, b, _, _ = self._words(purpose, 1)
        return ((a << 21) | (b >> 11)).flatten().double() * 2.0**-53

    def _words(self, purpose: str, blocks: int) -> tuple[Tensor, ...]:
        """Four tensors of 32-bit words (B, blocks)."""
        stream, block = keyed_seed(purpose), torch.arange(blocks, device=self.device)
        return philox((block, 0, stream & LOW, stream >> 32), self._key)

    @cached_property
    def _key(self) -> tuple[Tensor, Tensor]:
        """The halves of the seeds, (B, 1) each, copied to the device once."""
        seeds = sent(torch.tensor(self.seeds, dtype=torch.int64), self.device)[:, None]
        return seeds & LOW, (seeds >> 32) & LOW
