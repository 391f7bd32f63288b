"""Detect the death of a rank, report its cause and end all other processes of the run."""

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
    """Runs a `Watch` on every rank, from the creation of the process group to the end of the block of `explained`.

    Args:
        dead_after: seconds without a heartbeat after which a rank counts as dead.
        checkpoints: the run's folder of checkpoints; `--resume` is suggested if it holds a checkpoint.
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
        """Called before Lightning closes the connections, an error on the other ranks."""
        if not _lost(exception):  # else `explain` reports, when the first failure is known
            self.report(exception)

    def report(self, error: BaseException) -> None:
        """Report the failure of this rank to the others, once."""
        if self.watch is None:
            return
        known = _own_error(error, self.checkpoints) or error
        if isinstance(known, KeyboardInterrupt):
            self.watch.close("interrupted", INTERRUPTED)
        elif isinstance(known, Exception) and (code := exit_code(known)) is not None:
            self.watch.close(str(known), code)
        else:
            self.watch.close(f"internal error: {type(known).__name__}: {known}", INTERNAL)

    def explain(self, error: Exception) -> Exception:
        """The error to raise for `error`: that of another rank, if it failed first and `error` only follows from it."""
        if self.watch is None or not _lost(error):
            self.report(error)
            return _own_error(error, self.checkpoints) or error
        verdict = self.watch.wait_for_verdict()
        first = ProcessDied(
            verdict.message if verdict else died(f"another rank has ended ({_how(error)})", self.checkpoints)
        )
        first.exit_code = verdict.code if verdict else first.exit_code
        self.watch.close(str(first), first.exit_code, wait=verdict is not None)
        return first

    def close(self) -> None:
        """End the watch: the run is complete."""
        if self.watch is not None:
            self.watch.close()


@contextmanager
def explained(trainer: Trainer) -> Iterator[None]:
    """Wraps everything that the ranks of a run do together: raises the error of the rank that failed first, and reports it
    to the others. A rank that another process started ends with that process."""
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        die_with(os.getppid())
    (alive,) = [c for c in trainer.callbacks if isinstance(c, Alive)]  # type: ignore[attr-defined]
    try:
        yield
    except SystemExit as left:
        if isinstance(left.__context__, KeyboardInterrupt):  # Lightning raises SystemExit for it
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        cause = alive.explain(error)
        if cause is error:
            raise
        raise cause from error
    alive.close()


def _own_error(error: BaseException, checkpoints: Path | None = None) -> SunlabError | None:
    """The error for the user if `error` has its cause on this rank, else None."""
    if isinstance(error, SunlabError):
        return error
    if isinstance(error, RuntimeError) and _first(error).startswith("DataLoader worker"):
        return ProcessDied(died(_first(error).strip(". "), checkpoints))
    return None


def _lost(error: BaseException) -> bool:
    """Whether an operation between ranks failed, as after the end of one of them."""
    return _own_error(error) is None and isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)


def _how(error: BaseException) -> str:
    return next((word for word in GONE if word in str(error)), _first(error))


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
