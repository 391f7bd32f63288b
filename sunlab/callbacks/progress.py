"""Progress of a training: a bar on a terminal, lines everywhere else."""

import sys
import time
from math import inf
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar

from sunlab.callbacks.spending import Spending
from sunlab.progress import Lines


def progress() -> Callback:
    """The bar where standard output is a terminal, else the lines."""
    return Bar() if sys.stdout.isatty() else ProgressLines()


class Bar(RichProgressBar):
    """Lightning's rich bar for a training that is counted in steps, not epochs. It reads the metrics once a second at most,
    since the host waits for a GPU each time."""

    def __init__(self) -> None:
        super().__init__()
        self._read, self._shown = -inf, dict[str, Any]()

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        if (now := time.monotonic()) - self._read >= 1.0:
            self._read = now
            self._shown = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        return dict(self._shown)


class ProgressLines(Callback):
    """Prints step, loss, samples a second, time elapsed and left; see `Lines` for how often. Of the first rank."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._samples, self._step = 0, trainer.global_step
        self._lines = Lines("fit", total, unit="steps", enabled=trainer.is_global_zero, rate=False)
        self._lines.begin(trainer.global_step, share=_spent(trainer))
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._samples += len(batch) * trainer.world_size
        if trainer.global_step == self._step:
            return  # gradients are still being accumulated
        self._step = trainer.global_step
        self._lines.update(trainer.global_step, lambda: self._notes(trainer), share=_spent(trainer))

    def _notes(self, trainer: Trainer) -> list[str]:
        notes = [f"{self._samples / max(time.monotonic() - self._since, 1e-9):.3g} samples/s"]
        loss = trainer.callback_metrics.get("loss")
        return notes if loss is None else [f"loss {float(loss):.4g}", *notes]


def _spent(trainer: Trainer) -> float | None:
    """The share of a budget that is spent, where there is one."""
    found = next((c for c in trainer.callbacks if isinstance(c, Spending)), None)  # type: ignore[attr-defined]
    return found.share if found is not None and found.limited else None
