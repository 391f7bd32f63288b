"""What a training costs, and its end where that is limited instead of the steps."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Spending(Callback):
    """Counts steps, passes and seconds over all attempts of a run; ends it after the step in which the budget is spent.

    With a budget the learning rate's schedule follows the share that is spent, so that a cosine reaches zero at the end
    whatever a step costs.

    Args:
        nfe: `NetworkEvaluations.equivalents` of all ranks together; None: no limit.
        seconds: from the first step on, the time between two attempts left out; None: no limit.

    Attributes:
        used: pass-equivalents so far, of all ranks; 0 where the module counts none.
        elapsed: seconds so far.
    """

    def __init__(self, nfe: int | None = None, seconds: float | None = None):
        self.nfe, self.seconds = nfe, seconds
        self.used, self.elapsed = 0.0, 0.0
        self._since, self._step = 0.0, 0

    @property
    def limited(self) -> bool:
        return self.nfe is not None or self.seconds is not None

    @property
    def share(self) -> float:
        """Of the budget that is spent."""
        if self.nfe is not None:
            return self.used / self.nfe
        return 0.0 if self.seconds is None else self.elapsed / self.seconds

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if self.limited:
            module.spent = lambda: self.share  # type: ignore[assignment] # read by the learning rate's schedule

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._since, self._step = time.monotonic(), trainer.global_step
        self._end(trainer)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self._step:
            return  # gradients are still being accumulated
        self._step = trainer.global_step
        now = time.monotonic()
        mine = (getattr(getattr(module, "nfe", None), "equivalents", 0), now - self._since)
        self._since = now
        self._add(trainer, module, *mine)
        self._end(trainer)

    def _add(self, trainer: Trainer, module: LightningModule, used: int, elapsed: float) -> None:
        if trainer.world_size == 1:  # nothing to add up: the device is not waited for
            self.used, self.elapsed = float(used), self.elapsed + elapsed
            return
        all_used, all_elapsed = torch.tensor((used, elapsed), dtype=torch.float64, device=_device(module)).unbind()
        self.used = float(trainer.strategy.reduce(all_used, reduce_op="sum"))
        self.elapsed += float(trainer.strategy.reduce(all_elapsed, reduce_op="mean"))

    def _end(self, trainer: Trainer) -> None:
        if self.limited and self.share >= 1:
            # The steps turn out to be so many: all that looks at max_steps sees a training that has reached its end.
            trainer.fit_loop.epoch_loop.max_steps = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        return {"used": self.used, "elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.used, self.elapsed = state_dict["used"], state_dict["elapsed"]


def _device(module: LightningModule) -> torch.device:
    """Float64 does not exist on MPS."""
    return torch.device("cpu") if module.device.type == "mps" else module.device
