"""Ranks watch each other, so that a dead one does not leave the others waiting in a collective operation for ever."""

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
GRACE = 2  # looks between learning of an end and ending this process: it may be ending by itself
STRIDE = 0.02  # seconds between the questions of one who waits for an answer
RESUME = " The run can go on with --resume last"


@dataclass(frozen=True)
class Verdict:
    """How another rank ended: the exit code for all, and what to tell the user."""

    code: int
    message: str


class Watch:
    """Says every few seconds that this rank is alive and looks whether the others are. Once one is known to have failed, the
    main thread has a moment to end by itself; one that hangs in a collective operation is then ended with the whole process.

    The first rank serves the store, and what was told is gone with it. So one that tells of a failure, its own or another's,
    stays until every other has heard of it or is over itself; for one that does not look, at most `dead_after` seconds.

    A rank counts as dead when it was silent for `dead_after` seconds *of this process's own looking*, so that a job which is
    suspended and continued as a whole is not mistaken for a dead one. A rank that is merely slow is alive: its own thread
    says so. Two threads, since one that asks a store whose process was stopped may never have an answer.

    Args:
        store: shared by all ranks, served by rank 0.
        rank, ranks: of this process.
        dead_after: seconds.
        children: on the machine's first rank, the processes of the others, where this process started them.
        checkpoints: the run's folder of checkpoints; `--resume` is suggested where it holds one.
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
        self._listeners = list(self._peers)  # whom a failure must be told
        self._heard = dict.fromkeys(self._peers, 0)  # how often a new sign of life was seen
        store.set_timeout(timedelta(seconds=dead_after / 3))
        store.set(f"alive/{rank}", "0")
        store.set(f"over/{rank}", "")
        store.set(f"heard/{rank}", "")

    def start(self) -> None:
        for task in (self._talk, self._judge):
            threading.Thread(target=task, daemon=True, name=f"watch{task.__name__}").start()

    def close(self, message: str = DONE, code: int = 0, *, wait: bool = True) -> None:
        """Tell the others that this rank is over, and how; and stop.

        Args:
            message: for the user.
            code: the exit code; not 0: all should end with it.
            wait: the first rank returns when the others have heard of a failure. False where they are known not to listen.
        """
        if self._finish.is_set():
            return
        self._finish.set()
        self._hurry.set()
        telling = threading.Thread(target=self._tell, args=(message, code, wait), daemon=True)  # of a stopped rank 0 no end
        telling.start()
        telling.join(self.dead_after * 2 if self.rank == 0 else self.dead_after / 3)

    def wait_for_verdict(self) -> Verdict | None:
        """How another rank ended, as soon as it is known; at most a few looks from now."""
        self._hurry.set()
        self._found.wait(self.period * (GRACE + 1))
        return self.verdict

    def _tell(self, message: str, code: int, wait: bool) -> None:
        with suppress(RuntimeError):  # rank 0 may be gone already
            self.store.set(f"over/{self.rank}", json.dumps([code, message]))
            self.store.get(f"over/{self.rank}")  # now it has arrived, whatever becomes of this process
            if code and wait and self.rank == 0:
                self._wait_for_the_others()

    def _wait_for_the_others(self) -> None:
        """Until each has heard of a failure, is over, or was started here and has ended."""
        until = time.monotonic() + self.dead_after
        left = list(self._listeners)
        while left and time.monotonic() < until:
            said = self.store.multi_get([f"{what}/{peer}" for peer in left for what in ("heard", "over")])
            ended = {peer for peer, child in enumerate(self.children, 1) if child.poll() is not None}
            pairs = zip(left, said[::2], said[1::2], strict=True)
            left = [peer for peer, heard, over in pairs if not (heard or over or peer in ended)]
            time.sleep(STRIDE if left else 0)

    def _ask(self) -> None:
        """Whether any of the others is over."""
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
                self._ask()
                peers = list(self._peers)
                for peer, sign in zip(peers, self.store.multi_get([f"alive/{peer}" for peer in peers]), strict=True):
                    if seen.get(peer) != sign or peer == 0:
                        self._heard[peer] += 1
                    seen[peer] = sign
            except RuntimeError:  # no answer: rank 0, which serves the store, falls silent
                self._hurry.clear()

    def _judge(self) -> None:
        silent, heard, left = dict.fromkeys(self._peers, 0.0), dict(self._heard), GRACE
        failed: list[subprocess.Popen] = []
        while not self._finish.wait(self.period):
            for peer in list(self._peers):
                silent[peer] = silent[peer] + self.period if self._heard[peer] == heard[peer] else 0.0
                heard[peer] = self._heard[peer]
                if silent[peer] > self.dead_after and peer in self._listeners:
                    self._listeners.remove(peer)
                    self._died(f"rank {peer} gave no sign of life for {self.dead_after:.0f} s")
            for child in self.children:
                if child.poll() and child in failed:  # a look ago it had not ended
                    self._ask()  # it may have told why
                    self._died(f"the process {child.pid} of another rank ended with {child.returncode}")
            failed = [child for child in self.children if child.returncode]
            if self.verdict is not None:
                self._found.set()
                left -= 1
                if left < 0 and not self._finish.is_set():
                    self._end(self.verdict)

    def _over(self, peer: int, code: int, message: str) -> None:
        with suppress(ValueError):  # the other thread that asks took it off
            self._peers.remove(peer)  # it says nothing any more
        if code and self.verdict is None:
            self.verdict = Verdict(code, message if message.startswith("rank ") else f"rank {peer}: {message}")
        if code:
            self.store.set(f"heard/{self.rank}", "1")
            self._found.set()

    def _died(self, message: str) -> None:
        if self.verdict is None:
            self.verdict = Verdict(ProcessDied.exit_code, died(message, self.checkpoints))

    def _end(self, verdict: Verdict) -> None:
        """At once, for the main thread cannot be interrupted in a collective operation."""
        if self.rank == 0:  # another might ask a stopped process
            self.close(verdict.message, verdict.code)
        for child in self.children:
            if child.poll() is None:
                child.kill()
        print(f"error: {verdict.message}", file=sys.stderr, flush=True)
        os._exit(verdict.code)  # what this process started goes with it: see sunlab.distributed.parent


def died(what: str, checkpoints: Path | None) -> str:
    """The message for the user; it suggests `--resume` where the folder `checkpoints` holds one."""
    resumable = checkpoints is not None and any(checkpoints.glob("*.ckpt"))
    return f"{what}; was it killed, for want of memory perhaps?" + (RESUME if resumable else "")
