"""Paired timings: every case once a round, in turn, so that a machine that slows down slows all of them."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

Times = Mapping[str, Sequence[float]]
"""Case -> seconds, one a round; the rounds of all cases correspond."""


class Clock:
    """Seconds on a device. On a CPU they are CPU seconds of this process, whose threads are one: on an idle machine that is
    the time on the wall, on a shared one the time that the work itself took."""

    def __init__(self, device: str):
        self.device = device

    def __call__(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


def paired(cases: Mapping[str, Callable[[], object]], rounds: int, clock: Clock) -> Times:
    """Seconds of each case in each round, after one round that warms up. Every other round runs the cases backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        order = list(cases) if number % 2 else list(cases)[::-1]
        for name in order:
            started = clock()
            cases[name]()
            if number:
                seconds[name].append(clock() - started)
    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def summary(values: Sequence[float], digits: int = 3) -> str:
    """Median, and the range over the rounds."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def machine(device: str) -> str:
    """The kind of machine, and how much of it is used."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    cores = f"{torch.get_num_threads()} thread of {os.cpu_count()} cores"
    return f"{cpu or platform.machine()}, {cores}, torch {torch.__version__}; CPU seconds"


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []


def goal(text: str, value: float, wanted: float, *, at_least: bool = True) -> str:
    """A line of the report: the value beside what was aimed at."""
    met = value >= wanted if at_least else value <= wanted
    return f"- {text}: {value:.3f}, goal {'at least' if at_least else 'at most'} {wanted:g}: {'met' if met else 'NOT met'}"
