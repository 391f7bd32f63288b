"""How each run of a sweep stands: what it says of itself, then what the scheduler knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sunlab.sweep.folder import run_folder, unique
from sunlab.sweep.grid import Run
from sunlab.sweep.launchers import Queued
from sunlab.sweep.record import Status, alive, read_status

State = Literal["pending", "running", "requeued", "stopped", "failed", "skipped", "cancelled", "done"]
BROKEN = ("failed", "skipped", "cancelled", "stopped")
ACTIVE = ("running", "requeued")
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
        waits = queued in ("pending", "running", "requeued")
        state, error = _state(place, status, queued)
        broken = [found[need] for need in run.needs if need in found and found[need].state in BROKEN]
        if broken and state in ("pending", "cancelled"):
            state, error = "skipped", f"needs {broken[0].run.name}, which is {broken[0].state}"
        found[run.id] = Standing(run, state, waits, status, error)
    return found


def _state(place: Path, status: Status | None, queued: Queued | None) -> tuple[State, str]:
    if status is None:
        if queued in ("failed", "done"):
            return "failed", f"never said that it started, and the scheduler has it as {queued}; see log.txt"
        return queued or "pending", ""
    if status.state == "done":
        return "done", ""
    if queued in ("pending", "requeued"):
        return "requeued", status.error
    if queued == "running" or (status.state == "running" and alive(place, status)):
        return "running", ""
    if status.state == "running":
        return "failed", VANISHED
    return ("cancelled" if queued == "cancelled" else status.state), status.error
