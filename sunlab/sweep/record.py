"""What a run says of itself, readable without any scheduler."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from sunlab.files import lock, read_json, write_json

DONE: Final = "done"
BEAT = 15.0  # seconds between two signs of life
SILENT = 120.0  # seconds after which a run on another machine is taken for dead


@dataclass(frozen=True)
class Status:
    """`status.json`.

    Attributes:
        state: `stopped` means that it saved its state, or was interrupted, and can go on.
        attempt: 1, 2, ...
        host, pid: of the process.
        started, ended: seconds since the epoch; of this attempt.
        exit_code: of the process; None while it runs.
        error: what went wrong, on one line.
    """

    state: Literal["running", "stopped", "failed", "done"]
    attempt: int
    host: str
    pid: int
    started: float
    ended: float | None = None
    exit_code: int | None = None
    error: str = ""


def read_status(folder: Path) -> Status | None:
    """Raises `StorageError` for a file that no run wrote."""
    found = read_json(folder / "status.json")
    return None if found is None else Status(**found)


def write_status(folder: Path, status: Status) -> None:
    write_json(folder / "status.json", asdict(status))


def alive(folder: Path, status: Status) -> bool:
    """Whether the process that says `running` is there: on this machine it holds the lock, on another, or on a file system
    without locks, it shows signs of life by touching `beat`."""
    held = is_held(folder) if status.host == socket.gethostname() else None
    if held is not None:
        return held
    try:
        return time.time() - (folder / "beat").stat().st_mtime < SILENT
    except FileNotFoundError:
        return time.time() - status.started < SILENT


def is_held(folder: Path) -> bool | None:
    """Whether a process of this machine runs the run; None where the file system has no locks to tell by."""
    try:
        with (folder / "lock").open("rb") as file:
            free = lock(file, shared=True, patience=0)
    except FileNotFoundError:
        return False
    return None if free is None else not free


@contextmanager
def beating(folder: Path) -> Iterator[None]:
    """Show signs of life while the block runs: a thread touches `beat`."""
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
    return Status("running", attempt, socket.gethostname(), os.getpid(), time.time())
