"""Part `tests`: the tests marked `gpu`, in several processes where there are cores for them; what fails is named at once."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gpu.parts import Bench
from gpu.record import Goal

FOLDER = Path(__file__).parents[2] / "tests" / "gpu"
PROCESSES = 6  # at most: each has a context of its own on the GPU


def measure(bench: Bench, folder: Path = FOLDER) -> None:
    os.environ["SUNLAB_TEST_DEVICE"] = bench.device
    words = [str(folder), "-m", "gpu", "-q", "-W", "default", "-p", "no:cacheprovider", "--maxfail=1000"]
    if (processes := min((os.cpu_count() or 1) // 2, PROCESSES)) > 1:
        words += ["-n", str(processes)]
    status = pytest.main(words, plugins=[Outcomes(bench)])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {status!r}")


class Outcomes:
    """Counts what each file's tests came to, and names what failed, both at once."""

    def __init__(self, bench: Bench):
        self.bench, self.counts = bench, Counter[tuple[str, str]]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.rpartition("/")[2]
        if report.failed:
            told = str(report.longrepr).strip().splitlines()
            note = (told[-1] if told else "").replace("|", "/")[:200]
            self.bench.figure(f"failed: {name}", 1, "", Goal(0, at_least=False), note=note)
        if report.when == "call" or (report.when == "setup" and not report.passed):
            file = name.partition("::")[0]
            self.counts[file, report.outcome] += 1
            self.bench.figure(f"{file}: {report.outcome}", self.counts[file, report.outcome], "tests")
