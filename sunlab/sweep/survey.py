"""How each run of a sweep stands: what it says of itself, then what the scheduler knows."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

from sunlab.sweep.folder import run_folder, unique
from sunlab.sweep.grid import Run
from sunlab.sweep.launchers import Queued
from sunlab.sweep.record import Status, alive, read_status

State = Literal["pending", "running", "requeued", "stopped", "failed", "skipped", "cancelled", "done"]
BROKEN = ("failed", "skipped", "cancelled", "stopped")
WAITING = ("pending", "running", "requeued")
TAIL, LONGEST = 4096, 200  # bytes of a log that are looked at; characters of its last line that are shown
SCRIPT, SLURM = ("== ",), ("srun: ", "slurmstepd")  # so begins what is not the run's own in its log
RANK = re.compile(r"\[rank \d+ on [^\]]+\] (internal )?error: ")  # so begins what another rank than the first died of
VANISHED = "ended without a word: killed, out of memory, or its machine died; resume goes on from its last checkpoint"


@dataclass(frozen=True)
class Standing:
    """Of one run.

    Attributes:
        state: `pending` waits in a queue or was not started; `requeued` ran and waits in a queue again; `stopped` was
            interrupted and can be resumed; `skipped` needs a run that is not going to be done.
        queued: whether a scheduler holds it.
        status: its own words, if it said any.
        error: what went wrong, on one line.
    """

    run: Run
    state: State
    queued: bool
    status: Status | None
    error: str = ""


def survey(folder: Path, runs: Sequence[Run], known: Mapping[str, Queued]) -> dict[str, Standing]:
    """Every run's standing, by identity. Args: known, what schedulers say."""
    found: dict[str, Standing] = {}
    for run in unique(runs):  # parents first
        place = run_folder(folder, run)
        status, queued = read_status(place), known.get(run.id)
        waits = queued in WAITING
        state, error = _silent(place, queued) if status is None else _state(place, status, queued)
        broken = [found[need] for need in run.needs if need in found and found[need].state in BROKEN]
        if broken and (state in ("pending", "cancelled") or (status is None and not waits)):
            state, error = "skipped", f"needs {broken[0].run.name}, which is {broken[0].state}"
        found[run.id] = Standing(run, state, waits, status, error)
    return found


def _silent(place: Path, queued: Queued | None) -> tuple[State, str]:
    """Of a run that has not said anything yet."""
    if queued == "gone" and not last_line(place / "log.txt"):
        return "cancelled", "left the queue without having started"
    if queued == "failed" or queued == "done" or queued == "gone":  # so that mypy knows what is left
        return "failed", _with_log(f"never said that it started, and is {queued} for the scheduler", place)
    return queued or "pending", ""


def _state(place: Path, status: Status, queued: Queued | None) -> tuple[State, str]:
    if status.state == "done":
        return "done", ""
    if queued in ("pending", "requeued"):
        return "requeued", status.error
    if queued == "running" or (status.state == "running" and alive(place, status)):
        return "running", ""
    if status.state == "running":
        return "failed", _with_log(VANISHED, place)
    return ("cancelled" if queued == "cancelled" else status.state), status.error


def _with_log(error: str, place: Path) -> str:
    """The error that a rank wrote into the log, or else `error` with the log's last line."""
    said = last_line(place / "log.txt")
    if RANK.match(said):
        return said
    return f"{error}; its log ends: {said}" if said else error


def last_line(log: Path) -> str:
    """The last line that the run itself wrote since its latest start; else what Slurm said, else any; nothing where there is
    no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    lines = [" ".join(line.split())[:LONGEST] for line in reversed(lines) if line.strip()]
    latest = list(takewhile(lambda line: not line.startswith(SCRIPT) or ", start " not in line, lines))
    told = [line for line in latest if not line.startswith(SCRIPT)]
    own = [line for line in told if not line.startswith(SLURM)]
    return next(iter(own or told or lines), "")
