"""Everything that only a GPU can tell, in one command of eight minutes: report.json and report.md, written as it goes.

    python tools/gpu_report.py --out gpu-report
    python tools/gpu_report.py --out rehearsal --tiny            # on a CPU: the same code at sizes that mean nothing
    python tools/gpu_report.py --out gpu-report --parts sampling training --minutes 4

docs/gpu.md says what it measures, and how to bring what it needs to a machine without a package registry.
"""

import argparse
import platform
import shlex
import signal
import sys
import time
from pathlib import Path

import torch

from bench.timing import machine
from gpu.parts import PARTS, measure
from gpu.record import Report
from gpu.supervise import run_parts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the report")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="only these, in this order")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: the smallest sizes")
    parser.add_argument("--only", choices=list(PARTS), help=argparse.SUPPRESS)  # one part, in this process
    given = parser.parse_args()
    if given.device == "cpu" and not given.tiny:
        parser.error("no GPU is here: --tiny rehearses the report on a CPU")
    report = Report(given.out)
    if given.only:
        signal.alarm(max(int(60 * given.minutes) + 5, 1))  # ends this process too, should the parent be killed
        if given.device == "cpu":
            torch.set_num_threads(1)
        measure(given.only, report, given.device, tiny=given.tiny)
        return 0
    report.start(
        {name: PARTS[name].title for name in given.parts},
        command=shlex.join(sys.argv),
        machine=machine(given.device),
        python=platform.python_version(),
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        **({"sizes": "the smallest (--tiny): the figures mean nothing"} if given.tiny else {}),
    )
    words = [sys.executable, __file__, "--out", str(given.out), "--device", given.device, *["--tiny"] * given.tiny]
    run_parts(
        report,
        {name: PARTS[name].seconds for name in given.parts},
        lambda name, limit: [*words, "--only", name, "--minutes", str(limit / 60)],
        seconds=60 * given.minutes,
    )
    print((report.folder / "report.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
