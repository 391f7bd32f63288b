"""Failure detection between ranks: a dead rank would leave the others blocked in a collective operation."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore

from sunlab.errors import ProcessDied

DONE = "done"
GRACE = 2  # periods between detecting a failure and ending this process, which may end by itself
STRIDE = 0.02  # seconds between polls while waiting
RESUME = " Resume the run with --resume last"


@dataclass(frozen=True)
class Verdict:
    """How another rank failed. Attributes: code, the exit code of all ranks; message, for the user."""

    code: int
    message: str


class Watch:
    """Writes a heartbeat of this rank every few seconds and checks those of the others. After a failure the main thread has
    a short time to end by itself. The process is then ended, since the main thread may be blocked in a collective operation.

    The first rank serves the store, which ends with it. After it reports a failure it therefore waits until every other rank
    has read the report or has ended, for at most `dead_after` seconds.

    A rank counts as dead after `dead_after` seconds without a heartbeat, counted in periods of this process: a job that is
    suspended and continued as a whole goes on. Heartbeats come from a thread, so a slow rank does not count as dead. There
    are two threads because a read from a store whose process was stopped may block.

    Args:
        store: shared by all ranks, served by rank 0.
        rank, ranks: of this process.
        dead_after: seconds.
        children: on the machine's first rank, the processes of the others, where this process started them.
        checkpoints: the run's folder of checkpoints; `--resume` is suggested if it holds a checkpoint.
    """

    def __init__(
        self,
        store: TCPStore,
        rank: int,
        ranks: int,
        *,
        dead_after: float,
        children: Sequence[subprocess.Popen] = (),
        checkpoints: Path | None = None,
    ):
        self.checkpoints = checkpoints
        self.store, self.rank, self.dead_after, self.children = store, rank, dead_after, list(children)
        self.period = dead_after / 9
        self.verdict: Verdict | None = None
        self._found, self._finish, self._hurry = threading.Event(), threading.Event(), threading.Event()
        self._peers = [peer for peer in range(ranks) if peer != rank]
        self._to_notify = list(self._peers)  # ranks that a failure is reported to
        self._beats = dict.fromkeys(self._peers, 0)  # new heartbeats seen
        store.set_timeout(timedelta(seconds=dead_after / 3))
        store.set(f"alive/{rank}", "0")
        store.set(f"over/{rank}", "")
        store.set(f"read/{rank}", "")

    def start(self) -> None:
        for task in (self._talk, self._judge):
            threading.Thread(target=task, daemon=True, name=f"watch{task.__name__}").start()

    def close(self, message: str = DONE, code: int = 0, *, wait: bool = True) -> None:
        """Report the end of this rank to the others and stop the threads.

        Args:
            message: for the user.
            code: the exit code; if not 0, all ranks end with it.
            wait: the first rank returns after the others have read a failure. False if they cannot.
        """
        if self._finish.is_set():
            return
        self._finish.set()
        self._hurry.set()
        reporting = threading.Thread(target=self._report, args=(message, code, wait), daemon=True)  # may block
        reporting.start()
        reporting.join(self.dead_after * 2 if self.rank == 0 else self.dead_after / 3)

    def wait_for_verdict(self) -> Verdict | None:
        """How another rank failed; waits a few periods at most and returns None if none is known to have failed."""
        self._hurry.set()
        self._found.wait(self.period * (GRACE + 1))
        return self.verdict

    def _report(self, message: str, code: int, wait: bool) -> None:
        with suppress(RuntimeError):  # rank 0 may be gone already
            self.store.set(f"over/{self.rank}", json.dumps([code, message]))
            self.store.get(f"over/{self.rank}")  # the write has arrived
            if code and wait and self.rank == 0:
                self._wait_for_the_others()

    def _wait_for_the_others(self) -> None:
        """Until each rank has read the failure or has ended."""
        until = time.monotonic() + self.dead_after
        left = list(self._to_notify)
        while left and time.monotonic() < until:
            ends = self.store.multi_get([f"{what}/{peer}" for peer in left for what in ("read", "over")])
            ended = {peer for peer, child in enumerate(self.children, 1) if child.poll() is not None}
            pairs = zip(left, ends[::2], ends[1::2], strict=True)
            left = [peer for peer, read, over in pairs if not (read or over or peer in ended)]
            time.sleep(STRIDE if left else 0)

    def _read_ends(self) -> None:
        """Read which of the others have ended."""
        peers = list(self._peers)
        for peer, word in zip(peers, self.store.multi_get([f"over/{peer}" for peer in peers]), strict=True):
            if word:
                self._over(peer, *json.loads(word))

    def _talk(self) -> None:
        count, seen = 0, dict[int, bytes]()
        while not self._finish.wait(STRIDE if self._hurry.wait(self.period) else 0):
            count += 1
            try:
                self.store.set(f"alive/{self.rank}", str(count))
                self._read_ends()
                peers = list(self._peers)
                for peer, sign in zip(peers, self.store.multi_get([f"alive/{peer}" for peer in peers]), strict=True):
                    if seen.get(peer) != sign or peer == 0:
                        self._beats[peer] += 1
                    seen[peer] = sign
            except RuntimeError:  # rank 0, which serves the store, does not answer
                self._hurry.clear()

    def _judge(self) -> None:
        silent, beats, left = dict.fromkeys(self._peers, 0.0), dict(self._beats), GRACE
        failed: list[subprocess.Popen] = []
        while not self._finish.wait(self.period):
            for peer in list(self._peers):
                silent[peer] = silent[peer] + self.period if self._beats[peer] == beats[peer] else 0.0
                beats[peer] = self._beats[peer]
                if silent[peer] > self.dead_after and peer in self._to_notify:
                    self._to_notify.remove(peer)
                    self._died(f"rank {peer} sent no heartbeat for {self.dead_after:.0f} s")
            for child in self.children:
                if child.poll() and child in failed:  # ended before the last period
                    self._read_ends()  # it may have reported the reason
                    self._died(f"the process {child.pid} of another rank ended with {child.returncode}")
            failed = [child for child in self.children if child.returncode]
            if self.verdict is not None:
                self._found.set()
                left -= 1
                if left < 0 and not self._finish.is_set():
                    self._end(self.verdict)

    def _over(self, peer: int, code: int, message: str) -> None:
        with suppress(ValueError):  # removed by the other thread
            self._peers.remove(peer)  # it sends no more heartbeats
        if code and self.verdict is None:
            self.verdict = Verdict(code, message if message.startswith("rank ") else f"rank {peer}: {message}")
        if code:
            self.store.set(f"read/{self.rank}", "1")
            self._found.set()

    def _died(self, message: str) -> None:
        if self.verdict is None:
            self.verdict = Verdict(ProcessDied.exit_code, died(message, self.checkpoints))

    def _end(self, verdict: Verdict) -> None:
        """End the process: the main thread cannot be interrupted in a collective operation."""
        if self.rank == 0:  # a store of a stopped process would block
            self.close(verdict.message, verdict.code)
        for child in self.children:
            if child.poll() is None:
                child.kill()
        print(f"error: {verdict.message}", file=sys.stderr, flush=True)
        os._exit(verdict.code)  # ends child processes too: see sunlab.distributed.parent


def died(what: str, checkpoints: Path | None) -> str:
    """The message for the user; it suggests `--resume` if the folder `checkpoints` holds a checkpoint."""
    resumable = checkpoints is not None and any(checkpoints.glob("*.ckpt"))
    return f"{what}; it may have been killed, for example out of memory." + (RESUME if resumable else "")
