"""Something done in a process of its own, which may be limited, lose its rights, or die."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def apart(do: Callable[[], Any], *, kill_after: float | None = None) -> dict[str, Any]:
    """What `do()` returned (JSON values), in a forked process.

    Returns:
        `value` or `error` ("Kind: message"), and `grown`: by how many MiB the process's memory grew at its peak. Nothing
        where it was killed, after `kill_after` seconds or otherwise.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer: dict[str, Any] = {}
        try:
            os.close(read)
            before = _peak(reset=True)
            try:
                answer["value"] = do()
            except BaseException as error:
                answer["error"] = f"{type(error).__name__}: {error}"
            answer["grown"] = (_peak() - before) / 1024
            os.write(write, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(write)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(data) if data else {}


def _peak(*, reset: bool = False) -> int:
    """KiB of resident memory at the peak since the last reset."""
    if reset:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
