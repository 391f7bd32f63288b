"""Keeps the ledger of a run: which samples each optimizer step trained on, committed with the checkpoint."""

from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sunlab.data.datamodule import DataModule
from sunlab.data.ledger import NAME, Entry, LedgerFile


class LedgerKeeper(Callback):
    """Notes the keys of every batch that was trained on, and writes them when a checkpoint is about to be written.

    Every rank notes its own; a checkpoint, which all ranks make together, gathers them on rank 0. See
    `sunlab.data.ledger` for the file.

    Args:
        folder: the run's.

    Attributes:
        pending: steps since the last checkpoint with this rank's keys: (step, keys). With `current`, the keys of the step
            that is being made, it is what to look at when a batch is the cause of a failure.
    """

    def __init__(self, folder: Path):
        self.file = LedgerFile(folder / NAME)
        self.pending: list[tuple[int, tuple[str, ...]]] = []
        self.current: list[str] = []
        self.last = -1

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.current.extend(batch.keys)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = _data(trainer).step() - 1  # steps of data, so that one whose update was skipped counts too
        if step > self.last:
            self.pending.append((step, tuple(self.current)))
            self.last, self.current = step, []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.current = []  # a step that was left half done is made again from its start
        self.last = _data(trainer).step() - 1

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """On all ranks, as Lightning saves: an exchange between them is safe here."""
        ranks: list[Any] = [self.pending]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            dist.all_gather_object(ranks, self.pending)
        if trainer.is_global_zero:
            steps_an_epoch = _data(trainer).layout.steps
            entries = [
                Entry(rows[0][0], rows[0][0] // steps_an_epoch, tuple(keys for _, keys in rows))
                for rows in zip(*ranks, strict=True)
            ]
            self.file.append(entries)
        self.pending = []
        checkpoint["ledger"] = {"bytes": self.file.length}  # rank 0 is the one that writes the checkpoint

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint.get("ledger", {"bytes": 0})
        self.file = LedgerFile(self.file.path, int(kept["bytes"]))
        self.pending, self.current = [], []


def _data(trainer: Trainer) -> DataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, DataModule)
    return data
