"""What a whole command costs with all processes that it starts: CPU seconds and memory.

    python tools/measure_process.py sunlab fit --config configs/quickstart.yaml

Prints one line of JSON: `cpu`, seconds; `resident`, MiB, the most that the command's own process held; `together`, the most
that it and its children held, MiB, where a page that several processes share counts by shares (PSS). Linux alone.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

EVERY = 0.2  # seconds


@dataclass(frozen=True)
class Cost:
    """See above; `status` is the command's exit status."""

    status: int
    cpu: float
    resident: float
    together: float


def cost(command: Sequence[str]) -> Cost:
    """Run a command to its end."""
    process = subprocess.Popen(command)
    ended, resident, together = threading.Event(), [0.0], [0.0]

    def watch() -> None:
        while not ended.wait(EVERY):
            resident[0] = max(resident[0], mebibytes(process.pid, "status", "VmHWM:"))  # what the kernel kept as the most
            together[0] = max(together[0], sum(mebibytes(pid, "smaps_rollup", "Pss:") for pid in tree(process.pid)))

    watching = threading.Thread(target=watch)
    watching.start()
    _, status, used = os.wait4(process.pid, 0)
    ended.set()
    watching.join()
    process.returncode = os.waitstatus_to_exitcode(status)  # it was waited for
    return Cost(process.returncode, used.ru_utime + used.ru_stime, resident[0], together[0])


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        for file in Path(f"/proc/{each}/task").glob("*/children"):
            found += map(int, read(file).split())
    return found


def mebibytes(pid: int, file: str, field: str) -> float:
    """Of a file in /proc; 0 where the process has ended."""
    lines = read(Path(f"/proc/{pid}/{file}")).splitlines()
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(json.dumps(asdict(measured := cost(sys.argv[1:]))))
    sys.exit(measured.status)
