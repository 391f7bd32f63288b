"""Callbacks that do harm from within a run, at a step and rank of choice; loaded as a plugin by tortured runs only."""

import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sunlab.callbacks.base import CALLBACKS

SIGNALS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "term": signal.SIGTERM,
    "usr1": signal.SIGUSR1,
}


@CALLBACKS.register("torture_harm")
class Harm(Callback):
    """Does something to its own rank in the midst of a step, before the gradients are exchanged.

    Args:
        what: a signal to itself; `nan`: a loss that is not finite; `sleep`: a second.
        rank: that it happens on; -1: every one.
        step: the first step that it happens in.
        steps: in how many.
    """

    def __init__(
        self, *, what: Literal["kill", "stop", "term", "usr1", "nan", "sleep"], rank: int = -1, step: int = 3, steps: int = 1
    ):
        self.what, self.rank, self.steps = what, rank, range(step, step + steps)

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: torch.Tensor) -> None:
        if trainer.global_step not in self.steps or self.rank not in (-1, trainer.global_rank):
            return
        if self.what == "nan":
            with torch.no_grad():
                loss.mul_(float("nan"))
            loss.register_hook(lambda gradient: gradient * float("nan"))
        elif self.what == "sleep":
            time.sleep(1.0)
        else:
            os.kill(os.getpid(), SIGNALS[self.what])


@CALLBACKS.register("torture_pace")
class Pace(Callback):
    """Slows steps down, so that there is time to do harm from outside, and says how far each rank is, in a file `step-RANK`
    in the run's folder.

    Args:
        seconds: of every step.
    """

    def __init__(self, *, seconds: float = 0.05):
        self.seconds = seconds

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        Path(trainer.default_root_dir, f"step-{trainer.global_rank}").write_text(str(trainer.global_step))
        time.sleep(self.seconds)
