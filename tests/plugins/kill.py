"""A callback that kills its process after an optimizer step, as `kill -9` from outside."""

import os
import signal
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from sunlab.callbacks.base import CALLBACKS


@CALLBACKS.register("kill_of_the_tests")
class Kill(Callback):
    """Kills the process of `rank` after the optimizer step `after`."""

    def __init__(self, *, after: int, rank: int = 0):
        self.after, self.rank = after, rank

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)
