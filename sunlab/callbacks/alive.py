"""The end of a run in which a process died: noticed, told, and without anything left behind."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.distributed import TCPStore

from sunlab.distributed.parent import die_with
from sunlab.distributed.watch import Watch, died
from sunlab.errors import INTERNAL, INTERRUPTED, ProcessDied, SunlabError, exit_code
from sunlab.private import take_ranks

GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out")
LOST = (*GONE, "gloo", "nccl", "NCCL")


class Alive(Callback):
    """Has the ranks of a run watch each other (`Watch`), from the making of their process group to the end of what is
    `explained`.

    Args:
        dead_after: seconds without a sign of life after which a rank counts as dead.
        checkpoints: the run's folder of checkpoints; `--resume` is suggested where it holds one.
    """

    def __init__(self, *, dead_after: float, checkpoints: Path | None = None):
        self.dead_after, self.checkpoints = dead_after, checkpoints
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
            store,
            trainer.global_rank,
            trainer.world_size,
            dead_after=self.dead_after,
            children=take_ranks(trainer.strategy),
            checkpoints=self.checkpoints,
        )
        trainer.strategy.barrier("watch")
        self.watch.start()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Before Lightning closes the connections, by which the others would learn of it first."""
        if not _lost(exception):  # else `explain` tells, when it is known who was first
            self.tell(exception)

    def tell(self, error: BaseException) -> None:
        """Tell the others how this rank fails, if that was not told yet."""
        if self.watch is None:
            return
        known = _told(error, self.checkpoints) or error
        if isinstance(known, KeyboardInterrupt):
            self.watch.close("interrupted", INTERRUPTED)
        elif isinstance(known, Exception) and (code := exit_code(known)) is not None:
            self.watch.close(str(known), code)
        else:
            self.watch.close(f"internal error: {type(known).__name__}: {known}", INTERNAL)

    def explain(self, error: Exception) -> Exception:
        """The error for the user behind one that was raised between the ranks: another rank's, where that was first."""
        if self.watch is None or not _lost(error):
            self.tell(error)
            return _told(error, self.checkpoints) or error
        verdict = self.watch.wait_for_verdict()
        told = ProcessDied(verdict.message if verdict else died(f"another rank is gone ({_how(error)})", self.checkpoints))
        told.exit_code = verdict.code if verdict else told.exit_code
        self.watch.close(str(told), told.exit_code, wait=verdict is not None)
        return told

    def close(self) -> None:
        """All is done."""
        if self.watch is not None:
            self.watch.close()


@contextmanager
def explained(trainer: Trainer) -> Iterator[None]:
    """Around all that the ranks of a run do together: what is raised becomes the error of the rank that failed first, and
    the others are told of it. A rank that another process started ends with that one."""
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        die_with(os.getppid())
    (alive,) = [c for c in trainer.callbacks if isinstance(c, Alive)]  # type: ignore[attr-defined]
    try:
        yield
    except SystemExit as left:
        if isinstance(left.__context__, KeyboardInterrupt):  # which Lightning turns into this
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        told = alive.explain(error)
        if told is error:
            raise
        raise told from error
    alive.close()


def _told(error: BaseException, checkpoints: Path | None = None) -> SunlabError | None:
    """An error that this rank itself can explain."""
    if isinstance(error, SunlabError):
        return error
    if isinstance(error, RuntimeError) and _first(error).startswith("DataLoader worker"):
        return ProcessDied(died(_first(error).strip(". "), checkpoints))
    return None


def _lost(error: BaseException) -> bool:
    """Whether an operation between ranks failed, as it does when one of them is gone."""
    return _told(error) is None and isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)


def _how(error: BaseException) -> str:
    return next((word for word in GONE if word in str(error)), _first(error))


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
