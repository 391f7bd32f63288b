"""What a training costs, and its end where that is limited instead of the steps."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sunlab.distributed.later import Later


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
        self._sums, self._cost = Later(), (0.0, 0.0)

    @property
    def limited(self) -> bool:
        return self.nfe is not None or self.seconds is not None

    @property
    def share(self) -> float:
        """Of the budget that is spent. A step whose sum over the ranks is not read yet counts as much as the last read."""
        used, elapsed = (n + len(self._sums) * c for n, c in zip((self.used, self.elapsed), self._cost, strict=True))
        if self.nfe is not None:
            return used / self.nfe
        return 0.0 if self.seconds is None else elapsed / self.seconds

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
        used, elapsed = float(getattr(getattr(module, "nfe", None), "equivalents", 0)), now - self._since
        self._since = now
        if trainer.world_size == 1 or not self.limited:  # nothing to agree on before the end
            self.used, self.elapsed = used, self.elapsed + elapsed
        else:
            self._take(self._sums.add(_on_device(trainer, used, elapsed)))
        self._end(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.world_size > 1 and not self.limited:
            due = self._sums.add(_on_device(trainer, self.used, self.elapsed))
            ((self.used, self.elapsed), _), *_ = due or self._sums.rest()
        self._take(self._sums.rest())

    def _take(self, sums: list[tuple[Any, Any]]) -> None:
        """What all ranks spent: NFE so far, and seconds of a step in the mean."""
        for (used, elapsed), _ in sums:
            self._cost = used - self.used, elapsed
            self.used, self.elapsed = used, self.elapsed + elapsed

    def _end(self, trainer: Trainer) -> None:
        if self.limited and self.share >= 1:
            # The steps turn out to be so many: all that looks at max_steps sees a training that has reached its end.
            trainer.fit_loop.epoch_loop.max_steps = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        self._take(self._sums.rest())
        return {"used": self.used, "elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.used, self.elapsed = state_dict["used"], state_dict["elapsed"]


def _on_device(trainer: Trainer, used: float, elapsed: float) -> torch.Tensor:
    """What this rank adds to the sums, without a copy from the host, which would wait."""
    shares = used, elapsed / trainer.world_size
    return torch.stack([torch.full((), n, dtype=torch.float64, device=trainer.strategy.root_device) for n in shares])
