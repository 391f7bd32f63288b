"""Stopping early with everything saved: by the clock, or by a signal to any rank."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sunlab.distributed.later import Later
from sunlab.distributed.signals import Signals


class Stop(Callback):
    """Ends the training after the optimizer step during which the time ran out or a signal came, on all ranks after the
    same one: they agree on it, at the cost of one all-reduce of a number a step. Several GPUs end two steps later, since the
    number is read when they have long computed it. The caller saves and exits with 75.

    Args:
        signals: where it is noted that one came.
        seconds: from the callback's making on, so that start-up counts; None: no limit.

    Attributes:
        reason: why the training was ended before its last step; None where it was not.
    """

    def __init__(self, signals: Signals, seconds: float | None = None):
        self.signals = signals
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.reason: str | None = None
        self._last_step = 0
        self._agreed = Later()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.signals.listen()  # Lightning has put a handler of its own over SIGTERM, which broadcasts from inside
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self._last_step:
            return  # gradients are still being accumulated: a slice ends with a whole step, and has at least one
        self._last_step = trainer.global_step
        mine = self.asked()
        if trainer.world_size == 1:
            stops = mine is not None
        else:
            number = torch.full((), float(mine is not None), device=trainer.strategy.root_device)
            stops = any(total for total, _ in self._agreed.add(number))
        if not stops:
            return
        if not 0 <= trainer.max_steps <= trainer.global_step and not trainer.should_stop:  # else it ends by itself
            self.reason = mine or "another rank"
            trainer.should_stop = True

    def asked(self) -> str | None:
        """Why this rank would stop now."""
        if self.signals.received is not None:
            return self.signals.received
        return "the time limit" if self.deadline is not None and time.monotonic() >= self.deadline else None
