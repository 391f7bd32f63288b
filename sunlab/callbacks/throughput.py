"""Samples a second, and NFE."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sunlab.callbacks.base import CALLBACKS


@CALLBACKS.register("throughput")
class Throughput(Callback):
    """Shows samples a second in the progress bar and logs them, with the NFE spent so far, both of all ranks.

    Args:
        every: optimizer steps over which the rate is measured.
    """

    def __init__(self, *, every: int = 10):
        self.every = every
        self._samples, self._since, self._step = 0, 0.0, -1

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._samples, self._since, self._step = 0, time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._samples += len(batch) * trainer.world_size
        if trainer.global_step == self._step or trainer.global_step % self.every:
            return
        now = time.perf_counter()
        rate = self._samples / max(now - self._since, 1e-9)
        module.log("samples/s", rate, prog_bar=True, batch_size=len(batch))
        spent = getattr(module, "nfe", None)
        if spent is not None:
            mine = torch.tensor(spent.equivalents, device=module.device)
            module.log("nfe", float(trainer.strategy.reduce(mine, reduce_op="sum")), batch_size=len(batch))
        self._samples, self._since, self._step = 0, now, trainer.global_step
