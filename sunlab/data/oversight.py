"""Loader workers that are neither dead nor working: stopped, or stuck in a file system that hangs."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

PERIOD = 1.0  # seconds between two looks


class Oversight:
    """Kills a worker that has been stopped for `dead_after` seconds of this process's own looking (so that a job which is
    suspended and continued as a whole loses none), and all of them where nothing came for `timeout` seconds. torch notices
    that as it notices every worker's death; its own timeout does not see a worker that has promised its tensors and is asked
    for them.

    A context: outside it nobody looks.

    Args:
        pids: of the workers.
        dead_after: seconds.
        timeout: seconds for which `waiting` may last; 0: for ever.
    """

    def __init__(self, pids: Sequence[int], *, dead_after: float, timeout: float = 0.0):
        self.pids, self.dead_after, self.timeout = pids, dead_after, timeout
        self._since: float | None = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if self.pids:
            threading.Thread(target=self._look, daemon=True, name="oversight").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the workers owe something."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def _look(self) -> None:
        stopped = dict.fromkeys(self.pids, 0.0)
        while not self._over.wait(PERIOD):
            for pid in self.pids:
                stopped[pid] = stopped[pid] + PERIOD if _state(pid) in ("T", "t") else 0.0
                if stopped[pid] >= self.dead_after:
                    self._kill([pid], f"loader worker {pid} has been stopped for {self.dead_after:.0f} s")
            since = self._since
            if self.timeout and since is not None and time.monotonic() - since > self.timeout:
                self._kill(self.pids, f"no batch came for {self.timeout:.0f} s (run.timeout): a loader worker is stuck")

    def _kill(self, pids: Sequence[int], reason: str) -> None:
        if not self._over.is_set():
            print(f"warning: {reason}; it is ended, and with it the run", file=sys.stderr, flush=True)
            self._over.set()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _state(pid: int) -> str:
    """One letter, as in proc(5); "" where there is no /proc or no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
