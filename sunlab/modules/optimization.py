"""AdamW with warm-up, as every module here uses it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal

import torch
from torch import nn

from sunlab.errors import ConfigError
from sunlab.losses.joint import adamw

SMALLEST, BLOCK = 4096, 256  # bitsandbytes: parameters with fewer numbers keep 32 bits; numbers that share a scale


@dataclass(frozen=True)
class Optimization:
    """How parameters move.

    Attributes:
        lr: peak learning rate.
        betas, weight_decay: AdamW's.
        warmup_steps: linear from zero.
        schedule: after the warm-up; `cosine` falls to zero at the last step, or where the budget is spent.
        bits: of AdamW's two moments; 8 needs bitsandbytes (arXiv 2110.02861).
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    bits: Literal[32, 8] = 32

    def configure(
        self, parameters: Iterable[nn.Parameter], total_steps: int | None, *, spent: Callable[[], float] | None = None
    ) -> dict[str, Any]:
        """What `LightningModule.configure_optimizers` returns.

        Args:
            total_steps: None where something else ends the training.
            spent: the share of that budget.
        """
        optimizer = self.optimizer(parameters)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(step, total_steps, spent))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Raises `ConfigError` for 8 bits without bitsandbytes."""
        options: dict[str, Any] = {"lr": self.lr, "betas": self.betas, "weight_decay": self.weight_decay}
        if self.bits == 32:
            return adamw(parameters, **options)
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ConfigError(
                f"optimizer.bits: 8 needs bitsandbytes, which cannot be imported ({error}): pip install 'sunlab[bits]', or "
                "set optimizer.bits=32"
            ) from None
        return AdamW8bit(list(parameters), **options, min_8bit_size=SMALLEST)

    def bytes_of_moments(self, parameters: Iterable[nn.Parameter]) -> int:
        """What the optimizer keeps in memory for these parameters: of those in 8 bits, a scale for each block too."""
        total = 0
        for p in parameters:
            small = self.bits == 32 or p.numel() < SMALLEST
            each = p.nbytes if small else p.numel() + 4 * -(-p.numel() // BLOCK)
            total += 2 * each
        return total

    def factor(self, step: int, total_steps: int | None, spent: Callable[[], float] | None = None) -> float:
        """The learning rate at a step as a share of the peak."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        if spent is not None or total_steps is None:
            return 0.5 * (1 + cos(pi * min(spent() if spent else 0.0, 1.0)))
        if total_steps <= self.warmup_steps:
            return 1.0
        part = (step - self.warmup_steps) / (total_steps - self.warmup_steps)
        return 0.5 * (1 + cos(pi * min(part, 1.0)))
