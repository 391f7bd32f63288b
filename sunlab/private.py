"""Attributes of Lightning and torch that are no public API, and have no public counterpart.

The runtime uses no other; tests/test_private.py tries each and names the versions it was seen on.
"""

import subprocess
from datetime import timedelta
from typing import Any

SEEN_ON = {"lightning": "2.6.6", "torch": "2.13.0"}


def is_accumulating(trainer: Any) -> bool:
    """Whether the trainer's current micro-batch is not the last one of an optimizer step."""
    return bool(trainer.fit_loop._should_accumulate())


def set_timeout(strategy: Any, timeout: timedelta) -> None:
    """Set the time-out of the process group that a strategy will make; one chosen by its name takes no argument."""
    if hasattr(strategy, "_timeout"):
        strategy._timeout = timeout


def find_unused_parameters(strategy: Any) -> None:
    """Let DDP expect parameters without a gradient; a strategy chosen by its name takes no argument."""
    if hasattr(strategy, "_ddp_kwargs"):
        strategy._ddp_kwargs["find_unused_parameters"] = True


def take_ranks(strategy: Any) -> list[subprocess.Popen]:
    """The ranks that this process started, taken from Lightning's own observer, which would end this process by SIGKILL five
    seconds after one of them failed."""
    started = getattr(strategy.launcher, "procs", [])
    taken = list(started)
    started.clear()
    return taken


def workers_of(iterator: Any) -> list[Any]:
    """The processes behind a DataLoader's iterator; none where it reads in this process."""
    return list(getattr(iterator, "_workers", ()))


def shut_down(iterator: Any) -> None:
    """End the workers of a DataLoader's iterator now, not when it is collected as garbage."""
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()
