"""Callbacks that do harm from within a run, at a step and rank of choice; loaded as a plugin by the runs of trials only."""

import json
import os
import signal
import time
from pathlib import Path
from statistics import median
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


@CALLBACKS.register("inject_harm")
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


@CALLBACKS.register("inject_pace")
class Pace(Callback):
    """Slows steps down, so that faults can be injected from outside, and writes the step of each rank to a file `step-RANK`
    in the run's folder.

    Args:
        seconds: of every step.
    """

    def __init__(self, *, seconds: float = 0.05):
        self.seconds = seconds

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        Path(trainer.default_root_dir, f"step-{trainer.global_rank}").write_text(str(trainer.global_step))
        time.sleep(self.seconds)


@CALLBACKS.register("inject_gauge")
class Gauge(Callback):
    """Measures a rank with its loader workers, and writes `gauge-RANK.json` in the run's folder: `resident`, MiB at twenty
    points; `grown`, the median of the last five less that of the five after the first quarter; `longest_wait`, seconds for a
    batch. Proportional shares (PSS) of anonymous and shared memory, so that pages that forked processes have in common count
    once. Pages of files are left out: unrelated processes share libraries, and a share grows when one of them ends.
    """

    def __init__(self) -> None:
        self.resident: list[float] = []
        self.longest = 0.0
        self._since: float | None = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._since is not None:
            self.longest = max(self.longest, time.monotonic() - self._since)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        self._since = time.monotonic()
        if trainer.global_step % max(trainer.max_steps // 20, 1) == 0:
            self.resident.append(sum(map(_pss, [os.getpid(), *_children(os.getpid())])))

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        points = self.resident
        quarter = len(points) // 4
        grown = median(points[-5:]) - median(points[quarter : quarter + 5])
        report = {"resident": [round(point, 1) for point in points], "grown": grown, "longest_wait": self.longest}
        Path(trainer.default_root_dir, f"gauge-{trainer.global_rank}.json").write_text(json.dumps(report))


def _pss(pid: int) -> float:
    """MiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
