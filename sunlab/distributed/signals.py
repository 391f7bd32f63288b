"""The signals that ask a run to stop, and their one owner."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

ASKING = (signal.SIGUSR1, signal.SIGTERM)  # Slurm's notice before the time limit or a preemption; and everybody else's


class Signals:
    """Notes that a signal came, and does nothing else: what must be done, the ranks agree on between two steps.

    Saving from inside a handler, as Lightning's requeueing does, stops one rank within a step that another has not begun.

    A context: outside it the former handlers are back. Only a process's main thread can own signals; elsewhere nothing is
    listened to.

    Attributes:
        received: name of the first one that came, None before.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.getsignal(number) for number in ASKING}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def listen(self) -> None:
        """Take the signals, back from whoever took them meanwhile."""
        for number in self._former:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name


@contextmanager
def postponed() -> Iterator[None]:
    """Act on Ctrl-C after the block, which must not be left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    former = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
    if came:
        raise KeyboardInterrupt
