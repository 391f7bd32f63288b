"""Loss by timestep: where does the student fall short?"""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sunlab.callbacks.base import CALLBACKS


@CALLBACKS.register("loss_by_time")
class LossByTime(Callback):
    """Logs the mean unweighted loss in bins of the time of the student, over all ranks.

    Args:
        bins: equal parts of 0 ... 999.
        every: optimizer steps between two entries.
    """

    def __init__(self, *, bins: int = 4, every: int = 50):
        self.bins, self.every = bins, every
        self.total, self.count, self.last = torch.zeros(bins), torch.zeros(bins), 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.last = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        output = outputs.get("output") if isinstance(outputs, dict) else None
        if output is None:
            return
        where = (output.t.cpu() * self.bins // 1000).clamp(0, self.bins - 1)
        self.total.index_add_(0, where, output.values.detach().float().cpu())
        self.count.index_add_(0, where, torch.ones(len(where)))
        if trainer.global_step % self.every == 0 and trainer.global_step > self.last:
            self.last = trainer.global_step
            mine = torch.stack([self.total, self.count]).to(module.device)
            total, count = trainer.strategy.reduce(mine, reduce_op="sum").cpu()
            width = 1000 // self.bins
            for index in count.nonzero().flatten().tolist():
                name = f"loss_by_time/{index * width:03d}-{(index + 1) * width - 1:03d}"
                value = float(total[index] / count[index])
                for logger in trainer.loggers:
                    logger.log_metrics({name: value}, step=trainer.global_step - 1)  # counted as Lightning's
            self.total.zero_()
            self.count.zero_()
