"""The noise of stochastic samplers, keyed: a function of the sampler's seed, of the state that a sample's path starts from,
and of the time. So it depends on neither batch-mates nor steps of no length, and the same request gives the same picture.

Counter-based, in integer operations on the state's device, which is never waited for.
"""

import torch
from torch import Tensor

from sunlab.draws import keyed_seed

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the increment of splitmix64


def keys_of(x: Tensor, seed: int) -> Tensor:
    """A key (B,), int64, for each path that starts from x (B, C, H, W): a hash of the state's values and the seed."""
    bits = x.detach().double().flatten(1).view(torch.int64)
    place = torch.arange(1, bits.shape[1] + 1, device=x.device) * GOLDEN
    return mixed(mixed(bits + place).sum(1) + keyed_seed("renoise", seed))


def renoise(keys: Tensor, s: Tensor, like: Tensor) -> Tensor:
    """Standard normal numbers, shaped as `like` (B, C, H, W), for arriving at s (B,). Times that differ by less than 2^-30
    are one. By Box and Muller's transform, in float64."""
    arrived = mixed(keys + mixed((s * 2**30).round().long() + GOLDEN))
    place = torch.arange(1, 2 * like[0].numel() + 1, device=like.device) * GOLDEN
    first, second = uniform(mixed(arrived[:, None] + place)).chunk(2, dim=1)
    normal = (-2 * first.log()).sqrt() * (2 * torch.pi * second).cos()
    return normal.reshape(like.shape).to(like.dtype)


def mixed(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014, figure 17) on int64; products wrap around."""
    z = (z ^ shifted_right(z, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ shifted_right(z, 27)) * (0x94D049BB133111EB - 2**64)
    return z ^ shifted_right(z, 31)


def shifted_right(z: Tensor, bits: int) -> Tensor:
    """As of an unsigned number."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def uniform(bits: Tensor) -> Tensor:
    """Float64 in (0, 1), by the upper 52 bits."""
    return (shifted_right(bits, 12).double() + 0.5) * 2.0**-52
