"""Grids of times, from noise (t = 1) to the clean end (t = 0)."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from sunlab.diffusion.path import ProbabilityPath
from sunlab.errors import ConfigError
from sunlab.transfer import sent

Spacing = Literal["trailing", "leading", "uniform"]
Even = Literal["t", "lambda"]


def grid(steps: int, *, spacing: Spacing = "trailing", shift: float = 1.0, path: ProbabilityPath | None = None) -> Tensor:
    """The `steps` + 1 times of a sampler, descending, float64, on the CPU; the last is 0. See `grid_times`."""
    return torch.tensor(grid_times(steps, spacing=spacing, shift=shift, path=path), dtype=torch.float64)


def grid_times(
    steps: int, *, spacing: Spacing = "trailing", shift: float = 1.0, path: ProbabilityPath | None = None
) -> tuple[float, ...]:
    """The times of `grid` as numbers.

    `trailing` and `leading` hold whole training steps (arXiv 2305.08891, section 3.3): trailing starts at 1 (4 steps: 1,
    0.75, 0.5, 0.25, 0), leading below it, as Stable Diffusion's PNDM did with `steps_offset` 1 (0.752, 0.502, 0.252, 0.002,
    0). `uniform` divides [0, 1] evenly. The path's shift is applied last.

    Args:
        shift: moves the times, see `shifted`: below 1 towards the clean end, where the steps are shorter then. Times of
            `trailing` and `leading` are whole training steps again afterwards.
        path: whose number of training steps and shift count; None: 1,000 steps, no shift.

    Raises:
        ConfigError: fewer than one step, or more than the path has; a shift that is not above 0, or that leaves no training
            step between two times.
    """
    most, own = (1000, 1.0) if path is None else (path.steps, path.shift)
    if not 1 <= steps <= most:
        raise ConfigError(f"steps must lie in 1 ... {most}, got {steps}")
    if not 0 < shift < float("inf"):
        raise ConfigError(f"shift must be above 0 and finite, got {shift}")
    if spacing == "uniform":
        times = [1 - i / steps for i in range(steps)]
    elif spacing == "trailing":
        # The stride as numpy's arange, and so diffusers, has it: its last bit decides how 937.5 (48 steps) is rounded.
        stride = (most - most / steps) - most
        times = [round(most + i * stride) / most for i in range(steps)]
    else:
        times = [min(i * (most // steps) + 2, most) / most for i in reversed(range(steps))]
    if shift != 1:
        times = [shifted(t, shift) for t in times]
        if spacing != "uniform":
            times = [round(t * most) / most for t in times]
        if len({*times, 0.0}) <= steps:
            raise ConfigError(f"shift {shift:g} leaves no training step between two of {steps} steps; give one nearer to 1")
    return check_times(tuple(shifted(t, own) for t in (*times, 0.0)))


def shifted(t: float, shift: float) -> float:
    """shift t / (1 + (shift - 1) t): a time moved towards noise for shift > 1 (arXiv 2403.03206, equation 23)."""
    return t if shift == 1 else shift * t / (1 + (shift - 1) * t)


def check_times(times: Sequence[float]) -> tuple[float, ...]:
    """The times of a grid, as they are.

    Raises:
        ConfigError: fewer than two, whole numbers, outside [0, 1], or not descending.
    """
    falling = all(t > s for t, s in pairwise(times))
    if len(times) < 2 or not falling or not all(isinstance(t, float) and 0 <= t <= 1 for t in times):
        raise ConfigError(f"times: expected two or more descending floats in [0, 1], from noise to clean, got {list(times)}")
    return tuple(times)


def between(path: ProbabilityPath, start: Tensor, end: Tensor, steps: int, even: Even = "t") -> Tensor:
    """`steps` + 1 times from start to end (B,), (steps + 1, B); those between are whole training steps where the path is
    defined at no others.

    Where fewer than `steps` whole steps lie between, some repeat: a step of no length, which every solver leaves as it is.

    Args:
        even: in what they are evenly spaced, t or lambda = log(alpha / sigma). lambda is infinite at t = 0 and where
            alpha = 0: there one training step is left to the first or last of the steps.
    """
    part = torch.arange(1, steps, dtype=torch.float64, device=start.device)[:, None] / steps
    if even == "t":
        first, last = path.step(start), path.step(end)
        middle = first + (last - first) * part
    else:
        first, last = finite_log_snr(path, start), finite_log_snr(path, end)
        middle = path.step(path.time_of(first + (last - first) * part))
    return torch.cat([start[None], path.time(middle.round() if path.whole else middle), end[None]])


def finite_log_snr(path: ProbabilityPath, t: Tensor) -> Tensor:
    """lambda of t (B,), or that of one training step inside where it is infinite."""
    value, inside = path.log_snr(t), path.log_snr(t.clamp(1 / path.steps, 1 - 1 / path.steps))
    return torch.where(value.isfinite(), value, inside)


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values (N,) as float64 on a device, copied there once. Do not change it in place."""
    return sent(torch.tensor(values, dtype=torch.float64), device)
