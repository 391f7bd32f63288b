"""Grids of times, from pure noise to the clean end."""

from typing import Literal

import torch
from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.types import END

Spacing = Literal["trailing", "leading"]


def grid(steps: int, *, spacing: Spacing = "trailing", train_steps: int = 1000) -> Tensor:
    """The `steps` + 1 times of a sampler, descending, int64, the last is `END`.

    `trailing` starts at T - 1 (for 4 steps of 1000: 999, 749, 499, 249, END); `leading` starts short of it, as Stable
    Diffusion's PNDM did with `steps_offset` 1 (751, 501, 251, 1, END). Section 3.3 of arXiv 2305.08891.

    Raises:
        ConfigError: fewer than one step, or more than the schedule has.
    """
    if not 1 <= steps <= train_steps:
        raise ConfigError(f"steps must lie in 1 ... {train_steps}, got {steps}")
    if spacing == "trailing":
        # The stride as numpy's arange, and so diffusers, has it: its last bit decides how 937.5 (48 steps) is rounded.
        stride = (train_steps - train_steps / steps) - train_steps
        times = (train_steps + torch.arange(steps, dtype=torch.float64) * stride).round().long() - 1
    else:
        times = (torch.arange(steps) * (train_steps // steps)).flip(0) + 1
        times = times.clamp(max=train_steps - 1)
    return torch.cat([times, torch.tensor([END])])


def between(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """`steps` + 1 whole times from start to end, evenly spaced, (steps + 1, B), int64; start, end (B,).

    The clean end counts as -1, one before 0, as in the trailing grid. Where fewer than `steps` whole times lie between,
    some repeat: a step of no length, which every solver leaves as it is.
    """
    part = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=start.device)[:, None]
    return (start + (end - start) * part).round().long()
