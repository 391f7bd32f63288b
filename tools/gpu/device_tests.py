"""Part `tests`: the tests marked `gpu`, one figure as soon as a file of them has ended."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gpu.parts import Bench
from gpu.record import Goal

FOLDER = Path(__file__).parents[2] / "tests" / "gpu"


def measure(bench: Bench, folder: Path = FOLDER) -> None:
    os.environ["SUNLAB_TEST_DEVICE"] = bench.device
    words = [str(folder), "-m", "gpu", "-q", "-W", "default", "-p", "no:cacheprovider", "--maxfail=1000"]
    status = pytest.main(words, plugins=[Outcomes(bench)])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {status!r}")


class Outcomes:
    """Counts what a file's tests came to, and names what failed at once."""

    def __init__(self, bench: Bench):
        self.bench, self.file, self.counts = bench, "", Counter[str]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        file = report.nodeid.partition("::")[0].rpartition("/")[2]
        if file != self.file:
            self.pytest_sessionfinish()
            self.file = file
        if report.failed:
            name, told = report.nodeid.rpartition("/")[2], str(report.longrepr).strip().splitlines()
            note = (told[-1] if told else "").replace("|", "/")[:200]
            self.bench.figure(f"failed: {name}", 1, "", Goal(0, at_least=False), note=note)
        if report.when == "call" or (report.when == "setup" and not report.passed):
            self.counts[report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        """Note the file that has ended."""
        for outcome, count in self.counts.items():
            self.bench.figure(f"{self.file}: {outcome}", count, "tests")
        self.counts.clear()
