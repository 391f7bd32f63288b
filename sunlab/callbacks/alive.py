"""The end of a run in which a process died: noticed, told, and without anything left behind."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.distributed import TCPStore

from sunlab.errors import ProcessDied, SunlabError
from sunlab.parent import die_with
from sunlab.watch import Watch, died

GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out")
LOST = (*GONE, "gloo", "nccl", "NCCL")


class Alive(Callback):
    """Has the ranks of a run watch each other (`Watch`), from the making of their process group to the end of `fit`.

    Args:
        dead_after: seconds without a sign of life after which a rank counts as dead.
    """

    def __init__(self, *, dead_after: float):
        self.dead_after = dead_after
        self.watch: Watch | None = None

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or self.watch is not None:
            return
        host, seconds = os.environ["MASTER_ADDR"], timedelta(seconds=self.dead_after)
        store = (
            TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=seconds) if trainer.is_global_zero else None
        )
        port = trainer.strategy.broadcast(store.port if store else 0)
        store = store or TCPStore(host, port, is_master=False, timeout=seconds)
        self.watch = Watch(
            store, trainer.global_rank, trainer.world_size, dead_after=self.dead_after, children=_children(trainer)
        )
        trainer.strategy.barrier("watch")
        self.watch.start()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if self.watch is None or (_told(exception) is None and _lost(exception)):
            return  # `explain` tells, when it is known who was first
        if isinstance(exception, KeyboardInterrupt):
            self.watch.close("interrupted", 130)
        elif (error := _told(exception)) is not None:
            self.watch.close(str(error), error.exit_code)
        else:
            self.watch.close(f"internal error: {type(exception).__name__}: {exception}", 70)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if self.watch is not None:
            self.watch.close()  # not after an exception, when Lightning skips this

    def explain(self, error: Exception) -> Exception:
        """The error for the user behind what `Trainer.fit` raised: another rank's, where that one was first."""
        told = _told(error)
        if told is None and self.watch is not None and _lost(error):
            verdict = self.watch.wait_for_verdict()
            told = ProcessDied(verdict.message if verdict else died(f"another rank is gone ({_how(error)})"))
            told.exit_code = verdict.code if verdict else told.exit_code
            self.watch.close(str(told), told.exit_code)
        return told or error


@contextmanager
def explained(trainer: Trainer) -> Iterator[None]:
    """Around `Trainer.fit`: what it raises becomes the error of the rank that failed first. A rank that another process
    started ends with that one."""
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        die_with(os.getppid())
    try:
        yield
    except Exception as error:
        (alive,) = [c for c in trainer.callbacks if isinstance(c, Alive)]  # type: ignore[attr-defined]
        told = alive.explain(error)
        if told is error:
            raise
        raise told from error


def _told(error: BaseException) -> SunlabError | None:
    """An error that this rank itself can explain."""
    if isinstance(error, SunlabError):
        return error
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return ProcessDied(died(_first(error).strip(". ")))
    return None


def _lost(error: BaseException) -> bool:
    """Whether an operation between ranks failed, as it does when one of them is gone."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)


def _how(error: BaseException) -> str:
    return next((word for word in GONE if word in str(error)), _first(error))


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _children(trainer: Trainer) -> list[Any]:
    """The ranks that this process started, taken from Lightning's own observer: it would end this process by SIGKILL, five
    seconds after one of them failed, before anything is told."""
    procs = getattr(trainer.strategy.launcher, "procs", [])
    mine = list(procs)
    procs.clear()
    return mine
