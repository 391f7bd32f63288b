"""Loss by timestep: where does the student fall short?"""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sunlab.callbacks.base import CALLBACKS


@CALLBACKS.register("loss_by_time")
class LossByTime(Callback):
    """Logs the mean unweighted loss in bins of the student's time, over all ranks.

    Args:
        bins: equal parts of [0, 1], each with its upper end.
        every: optimizer steps between two entries.
    """

    def __init__(self, *, bins: int = 4, every: int = 50):
        self.bins, self.every = bins, every
        self.sums, self.last = torch.zeros(2, bins), 0  # of the loss, and of samples

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.last = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """On all ranks, as Lightning saves. The first rank keeps what all have gathered since the last entry, so that a run
        goes on with any number of ranks."""
        if trainer.world_size > 1:
            total = trainer.strategy.reduce(self.sums.to(trainer.strategy.root_device), reduce_op="sum")
            self.sums = total if trainer.is_global_zero else torch.zeros_like(total)
        checkpoint["loss_by_time"] = self.sums.tolist()

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        sums = torch.tensor(checkpoint.get("loss_by_time", []))
        if trainer.is_global_zero and sums.shape == self.sums.shape:  # else the run has other bins, or had no such entry
            self.sums = sums

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        output = outputs.get("output") if isinstance(outputs, dict) else None
        if output is None:
            return
        values = output.values.detach().float()
        where = ((output.t * self.bins - 1e-9).ceil().long() - 1).clamp(0, self.bins - 1)
        self.sums = self.sums.to(values.device).index_add_(1, where, torch.stack([values, torch.ones_like(values)]))
        if trainer.global_step % self.every == 0 and trainer.global_step > self.last:
            self.last = trainer.global_step
            total, count = trainer.strategy.reduce(self.sums.clone(), reduce_op="sum").cpu()
            for index in count.nonzero().flatten().tolist():
                name = f"loss_by_time/{index / self.bins:.2f}-{(index + 1) / self.bins:.2f}"
                value = float(total[index] / count[index])
                for logger in trainer.loggers:
                    logger.log_metrics({name: value}, step=trainer.global_step - 1)  # counted as Lightning's
            self.sums.zero_()
