"""Ranks watch each other, so that a dead one does not leave the others waiting in a collective operation for ever."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore

from sunlab.errors import ProcessDied

DONE = "done"
GRACE = 2  # looks between learning of an end and ending this process: it may be ending by itself


@dataclass(frozen=True)
class Verdict:
    """How another rank ended: the exit code for all, and what to tell the user."""

    code: int
    message: str


class Watch:
    """Says every few seconds that this rank is alive and looks whether the others are. Once one is known to have failed, the
    main thread has a moment to end by itself; one that hangs in a collective operation is then ended with the whole process.

    A rank counts as dead when it was silent for `dead_after` seconds *of this process's own looking*, so that a job which is
    suspended and continued as a whole is not mistaken for a dead one. A rank that is merely slow is alive: its own thread
    says so. Two threads, since one that asks a store whose process was stopped may never have an answer.

    Args:
        store: shared by all ranks, served by rank 0.
        rank, ranks: of this process.
        dead_after: seconds.
        children: on the machine's first rank, the processes of the others, where this process started them.
    """

    def __init__(
        self, store: TCPStore, rank: int, ranks: int, *, dead_after: float, children: Sequence[subprocess.Popen] = ()
    ):
        self.store, self.rank, self.dead_after, self.children = store, rank, dead_after, list(children)
        self.period = dead_after / 9
        self.verdict: Verdict | None = None
        self._found, self._finish = threading.Event(), threading.Event()
        self._peers = [peer for peer in range(ranks) if peer != rank]
        self._heard = dict.fromkeys(self._peers, 0)  # how often a new sign of life was seen
        store.set_timeout(timedelta(seconds=dead_after / 3))
        store.set(f"alive/{rank}", "0")
        store.set(f"over/{rank}", "")

    def start(self) -> None:
        for task in (self._talk, self._judge):
            threading.Thread(target=task, daemon=True, name=f"watch{task.__name__}").start()

    def close(self, message: str = DONE, code: int = 0) -> None:
        """Tell the others that this rank is over, and how; and stop."""
        if self._finish.is_set():
            return
        self._finish.set()
        with suppress(RuntimeError):  # rank 0 may be gone already
            self.store.set(f"over/{self.rank}", json.dumps([code, message]))

    def wait_for_verdict(self) -> Verdict | None:
        """How another rank ended, as soon as it is known; at most a few looks from now."""
        self._found.wait(self.period * (GRACE + 1))
        return self.verdict

    def _talk(self) -> None:
        count, seen = 0, dict[int, bytes]()
        while not self._finish.wait(self.period):
            count += 1
            with suppress(RuntimeError):  # no answer: rank 0, which serves the store, falls silent
                self.store.set(f"alive/{self.rank}", str(count))
                peers = list(self._peers)
                signs = self.store.multi_get([f"alive/{peer}" for peer in peers])
                words = self.store.multi_get([f"over/{peer}" for peer in peers])
                for peer, sign, word in zip(peers, signs, words, strict=True):
                    if word:
                        self._peers.remove(peer)  # it says nothing any more
                        self._over(peer, *json.loads(word))
                    elif seen.get(peer) != sign or peer == 0:
                        self._heard[peer] += 1
                    seen[peer] = sign

    def _judge(self) -> None:
        silent, heard, left = dict.fromkeys(self._peers, 0.0), dict(self._heard), GRACE
        failed: list[subprocess.Popen] = []
        while not self._finish.wait(self.period):
            for peer in list(self._peers):
                silent[peer] = silent[peer] + self.period if self._heard[peer] == heard[peer] else 0.0
                heard[peer] = self._heard[peer]
                if silent[peer] > self.dead_after:
                    self._died(f"rank {peer} gave no sign of life for {self.dead_after:.0f} s")
            for child in self.children:
                if child.poll() and child in failed:  # a look ago it had not ended, or had no time to tell why
                    self._died(f"the process {child.pid} of another rank ended with {child.returncode}")
            failed = [child for child in self.children if child.returncode]
            if self.verdict is not None:
                self._found.set()
                left -= 1
                if left < 0 and not self._finish.is_set():
                    self._end(self.verdict)

    def _over(self, peer: int, code: int, message: str) -> None:
        if code and self.verdict is None:
            self.verdict = Verdict(code, f"rank {peer}: {message}")
            self._found.set()

    def _died(self, message: str) -> None:
        if self.verdict is None:
            self.verdict = Verdict(ProcessDied.exit_code, died(message))

    def _end(self, verdict: Verdict) -> None:
        """At once: the main thread cannot be interrupted in a collective operation."""
        for child in self.children:
            if child.poll() is None:
                child.kill()
        print(f"error: {verdict.message}", file=sys.stderr, flush=True)
        os._exit(verdict.code)  # what this process started goes with it: see sunlab.parent


def died(what: str) -> str:
    """The message for the user."""
    return f"{what}; was it killed, for want of memory perhaps? The run can go on with --resume last"
