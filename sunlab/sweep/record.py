"""What a run records about itself: its state in `status.json`, readable without a scheduler, and `environment.json`."""

import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import sunlab
from sunlab.errors import StorageError
from sunlab.files import lock, read_json, write_json

BEAT = 15.0  # seconds between two heartbeats
SILENT = 120.0  # seconds without a heartbeat after which a run on another machine counts as dead
SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_PARTITION")


class RunState(StrEnum):
    """State of a run. `status.json` holds RUNNING, STOPPED, FAILED or DONE; GONE comes from schedulers alone."""

    PENDING = "pending"  # not started, or in a queue for its first start
    RUNNING = "running"
    REQUEUED = "requeued"  # has run and is in a queue again
    STOPPED = "stopped"  # saved its state, or was interrupted; can be resumed
    FAILED = "failed"
    SKIPPED = "skipped"  # needs a run that did not complete
    CANCELLED = "cancelled"
    DONE = "done"
    GONE = "gone"  # the job is neither in the queue nor in the accounting

    @property
    def is_queued(self) -> bool:
        """Reported by a scheduler: the job waits or runs."""
        return self in (RunState.PENDING, RunState.RUNNING, RunState.REQUEUED)

    @property
    def is_final(self) -> bool:
        """Does not change unless the run is started again."""
        return not self.is_queued

    @property
    def blocks(self) -> bool:
        """Runs that need this one cannot start."""
        return self.is_final and self is not RunState.DONE

    @property
    def is_error(self) -> bool:
        """Makes the command's exit code 1."""
        return self in (RunState.FAILED, RunState.SKIPPED)

    @property
    def may_start(self) -> bool:
        """`sunlab sweep` starts it; `sunlab sweep resume` also starts FAILED ones."""
        return self in (RunState.PENDING, RunState.STOPPED, RunState.SKIPPED, RunState.CANCELLED)


@dataclass(frozen=True)
class Status:
    """`status.json`.

    Attributes:
        attempt: 1, 2, ...
        host, pid: of the process.
        started, ended: of this attempt, in seconds since the epoch.
        exit_code: of the process; None while it runs.
        error: one line.
    """

    state: RunState
    attempt: int
    host: str
    pid: int
    started: float
    ended: float | None = None
    exit_code: int | None = None
    error: str = ""


def read_status(folder: Path) -> Status | None:
    """None where the run has not started. Raises `StorageError` for a file that is not a status."""
    file = folder / "status.json"
    found = read_json(file)
    if found is None:
        return None
    try:
        return Status(**{**found, "state": RunState(found["state"])})
    except (TypeError, KeyError, ValueError) as error:
        raise StorageError(f"{file}: not the status of a run ({error}); delete it to start the run again") from None


def write_status(folder: Path, status: Status) -> None:
    write_json(folder / "status.json", asdict(status))


def alive(folder: Path, status: Status) -> bool:
    """Whether the process of a status RUNNING exists: on this machine it holds the lock; on another, or on a file system
    without locks, it touches `beat` regularly."""
    held = is_held(folder) if status.host == socket.gethostname() else None
    if held is not None:
        return held
    try:
        return time.time() - (folder / "beat").stat().st_mtime < SILENT
    except FileNotFoundError:
        return time.time() - status.started < SILENT


def is_held(folder: Path) -> bool | None:
    """Whether a process of this machine runs the run; None where the file system has no locks."""
    try:
        with (folder / "lock").open("rb") as file:
            free = lock(file, shared=True, patience=0)
    except FileNotFoundError:
        return False
    return None if free is None else not free


@contextmanager
def beating(folder: Path) -> Iterator[None]:
    """Write heartbeats while the block runs: a thread touches `beat`."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            (folder / "beat").touch()

    (folder / "beat").touch()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def here(attempt: int) -> Status:
    """The status of a run that starts in this process."""
    return Status(RunState.RUNNING, attempt, socket.gethostname(), os.getpid(), time.time())


def environment(*, seed: int) -> dict[str, Any]:
    """Plain values for JSON. Of the environment's variables only Slurm's names of the job: others may be secrets."""
    return {
        "sunlab": sunlab.__version__,
        "commit": commit(Path(sunlab.__file__).parent),
        "seed": seed,
        "python": sys.version.split()[0],
        "machine": platform.platform(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "accelerators": _accelerators(),
        "host": socket.gethostname(),
        "folder": str(Path.cwd()),
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
        "packages": _packages(),
    }


def commit(folder: Path) -> str | None:
    """The git commit of the sources in `folder`, with `+changes` where files differ from it; None where there is no
    repository or no git."""
    git = ["git", "-C", str(folder)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=30)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "."], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


@cache
def _packages() -> dict[str, str]:
    """Installed distribution -> its version."""
    return dict(sorted((d.metadata["Name"], d.version) for d in distributions() if d.metadata["Name"]))


def _accelerators() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
