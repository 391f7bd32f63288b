"""The state of each run of a sweep, from its `status.json` and from the scheduler."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from sunlab.sweep.folder import run_folder, unique
from sunlab.sweep.grid import Run
from sunlab.sweep.record import RunState, Status, alive, read_status

TAIL, LONGEST = 4096, 200  # bytes of a log that are read; characters of its last line that are shown
SCRIPT, SLURM = ("== ",), ("srun: ", "slurmstepd")  # prefixes of lines in the log that the run did not write
RANK = re.compile(r"\[rank \d+ on [^\]]+\] (internal )?error: ")  # prefix of the error of a rank other than the first
VANISHED = "ended without a status: killed, out of memory, or its machine failed; sunlab sweep resume continues it"


@dataclass(frozen=True)
class Standing:
    """Of one run.

    Attributes:
        state: never GONE.
        queued: whether a scheduler has it waiting or running.
        status: its `status.json`.
        error: one line.
    """

    run: Run
    state: RunState
    queued: bool
    status: Status | None
    error: str = ""

    @property
    def under_way(self) -> bool:
        """It runs, or will without another command."""
        return self.queued or self.state in (RunState.RUNNING, RunState.REQUEUED)


def survey(folder: Path, runs: Sequence[Run], known: Mapping[str, RunState]) -> dict[str, Standing]:
    """Every run's standing, by identity. Args: known, the states that schedulers report."""
    found: dict[str, Standing] = {}
    for run in unique(runs):  # parents first
        place = run_folder(folder, run)
        status, queued = read_status(place), known.get(run.id)
        waits = queued is not None and queued.is_queued
        state, error = _without_status(place, queued) if status is None else _state(place, status, queued)
        broken = [found[need] for need in run.needs if need in found and found[need].state.blocks]
        if broken and (state in (RunState.PENDING, RunState.CANCELLED) or (status is None and not waits)):
            state, error = RunState.SKIPPED, f"needs {broken[0].run.name}, which is {broken[0].state}"
        found[run.id] = Standing(run, state, waits, status, error)
    return found


def _without_status(place: Path, queued: RunState | None) -> tuple[RunState, str]:
    if queued is RunState.GONE and not last_line(place / "log.txt"):
        return RunState.CANCELLED, "left the queue before it started"
    if queued in (RunState.FAILED, RunState.DONE, RunState.GONE):
        return RunState.FAILED, _with_log(f"wrote no status, and is {queued} for the scheduler", place)
    return queued or RunState.PENDING, ""


def _state(place: Path, status: Status, queued: RunState | None) -> tuple[RunState, str]:
    if status.state is RunState.DONE:
        return status.state, ""
    if queued in (RunState.PENDING, RunState.REQUEUED):
        return RunState.REQUEUED, status.error
    if queued is RunState.RUNNING or (status.state is RunState.RUNNING and alive(place, status)):
        return RunState.RUNNING, ""
    if status.state is RunState.RUNNING:
        return RunState.FAILED, _with_log(VANISHED, place)
    return (queued if queued is RunState.CANCELLED else status.state), status.error


def _with_log(error: str, place: Path) -> str:
    """The error that a rank wrote into the log; otherwise `error` with the last line of the log."""
    said = last_line(place / "log.txt")
    if RANK.match(said):
        return said
    return f"{error}; its log ends: {said}" if said else error


def last_line(log: Path) -> str:
    """The last line that the run wrote since its latest start; otherwise the last of Slurm's, then of the script's; empty if
    there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    lines = [" ".join(line.split())[:LONGEST] for line in reversed(lines) if line.strip()]
    latest = list(takewhile(lambda line: not line.startswith(SCRIPT) or ", start " not in line, lines))
    others = [line for line in latest if not line.startswith(SCRIPT)]
    own = [line for line in others if not line.startswith(SLURM)]
    return next(iter(own or others or lines), "")
