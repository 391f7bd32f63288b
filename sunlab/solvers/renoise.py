"""The noise of stochastic samplers, keyed: a function of the sampler's seed, of the state that a sample's path starts from,
and of the time. So it depends on neither batch-mates nor steps of no length, and the same request gives the same picture."""

from hashlib import blake2b

import torch
from torch import Tensor

from sunlab.draws import Draws, keyed_seed

Paths = tuple[int, ...]
"""What a stochastic sampler remembers: a seed for each sample's path."""


def paths(x: Tensor, seed: int) -> Paths:
    """The seeds of the paths that start from x (B, C, H, W), by the bytes of each state."""
    rows = x.detach().cpu().contiguous().flatten(1).view(torch.uint8)
    return tuple(keyed_seed(seed, blake2b(row.numpy().tobytes(), digest_size=16).hexdigest()) for row in rows)


def renoise(known: Paths, s: Tensor, like: Tensor) -> Tensor:
    """Standard normal numbers, shaped as `like` (B, C, H, W), for arriving at s (B,)."""
    seeds = [keyed_seed(path, float(time)) for path, time in zip(known, s.tolist(), strict=True)]
    return Draws(seeds, device=like.device, dtype=like.dtype).normal("renoise", like.shape[1:])
