"""AdamW with warm-up, as every module here uses it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal

import torch
from torch import nn

from sunlab.losses.joint import adamw


@dataclass(frozen=True)
class Optimization:
    """How parameters move.

    Attributes:
        lr: peak learning rate.
        betas, weight_decay: AdamW's.
        warmup_steps: linear from zero.
        schedule: after the warm-up; `cosine` falls to zero at the last step, or where the budget is spent.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"

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
        return adamw(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

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
