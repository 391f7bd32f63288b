"""Each part in a process of its own with a time limit of its own: a crash or a hang of one loses nothing of the others."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from gpu.record import Report


def run_parts(
    report: Report, shares: Mapping[str, float], command: Callable[[str, float], Sequence[str]], *, seconds: float
) -> None:
    """Run the parts one after the other.

    Args:
        shares: part -> its share of the time. A part that ends early leaves its time to the later ones.
        command: (part, its limit in seconds) -> the words that run it.
        seconds: for all of them together.
    """
    deadline, waiting = time.monotonic() + seconds, dict(shares)
    for name, share in shares.items():
        left = deadline - time.monotonic()
        limit = left * share / sum(waiting.values())
        del waiting[name]
        if left < 1:
            report.set_state(name, "not started: no time was left")
            continue
        started = time.monotonic()
        report.set_state(name, "running")
        state = run_limited(command(name, limit), limit, report.folder / "log.txt")
        report.set_state(name, state, time.monotonic() - started)


def run_limited(command: Sequence[str], limit: float, log: Path) -> str:
    """Run a command; kill it and all that it started at the limit. Returns `done` or why it ended early.

    Args:
        limit: seconds.
        log: takes its output, after what is there.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped at its limit of {limit:.0f} s"
        finally:
            with suppress(ProcessLookupError):  # all of it, also what the part left running
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status == 0:
        return "done"
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f"ended by {how}, see log.txt"
