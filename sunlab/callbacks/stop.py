"""Runs in slices: stop after a time, with everything saved."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class StopAfter(Callback):
    """Ends the training after the step during which the time ran out. The caller saves and exits with 75.

    Args:
        seconds: from the callback's making on, so that start-up counts.
    """

    def __init__(self, seconds: float):
        self.deadline = time.monotonic() + seconds
        self.stopped = False
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self._last_step:
            return  # gradients are still being accumulated: a slice ends with a whole step, and has at least one
        self._last_step = trainer.global_step
        late = trainer.strategy.reduce_boolean_decision(time.monotonic() >= self.deadline, all=False)
        if late and not 0 <= trainer.max_steps <= trainer.global_step:
            self.stopped = True
            trainer.should_stop = True
