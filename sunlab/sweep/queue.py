"""Slurm's commands, each with a time limit, and the run states that Slurm's job states map to."""

import shutil
import subprocess
from collections.abc import Collection, Mapping
from contextlib import suppress

from sunlab.errors import ConfigError
from sunlab.sweep.record import RunState

DEADLINE = 60.0  # seconds that a command may take
STATES: dict[str, RunState] = {
    **dict.fromkeys(("PENDING", "CONFIGURING", "REQUEUE_FED", "RESV_DEL_HOLD"), RunState.PENDING),
    **dict.fromkeys(("REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"), RunState.REQUEUED),
    **dict.fromkeys(
        ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SIGNALING", "RESIZING"), RunState.RUNNING
    ),
    "COMPLETED": RunState.DONE,
    **dict.fromkeys(("CANCELLED", "REVOKED"), RunState.CANCELLED),
    **dict.fromkeys(
        ("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED"), RunState.FAILED
    ),
}
COLUMNS = ("ArrayJobID", "ArrayTaskID", "JobID", "State", "RestartCnt")


class SlurmError(Exception):
    """A command of Slurm failed; the message is its stderr."""


def command(*words: str) -> str:
    """Run a command of Slurm in a session of its own, so that Ctrl-C does not interrupt it. Returns its stdout.

    Raises:
        ConfigError: the command is not installed.
        SlurmError: it failed or timed out.
    """
    if shutil.which(words[0]) is None:
        raise ConfigError(
            f"launcher slurm: no command {words[0]!r} on this machine; start this on a login node of the cluster, "
            "or use launcher local"
        )
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False, start_new_session=True)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]} did not answer within {DEADLINE:.0f} s") from None
    if answer.returncode:
        raise SlurmError(answer.stderr.strip() or f"{words[0]} ended with {answer.returncode}")
    return answer.stdout


def known(handles: Collection[str]) -> Mapping[str, RunState]:
    """The states of jobs, by handle (`123`, or `123_4` in an array); empty if squeue is not installed.

    squeue drops a job minutes after its end. sacct, if installed, keeps it, but lags by seconds.

    Raises:
        SlurmError: squeue fails.
    """
    if not handles or not shutil.which("squeue"):
        return {}
    found = _squeue()
    missing = [handle for handle in handles if handle not in found]
    if missing and shutil.which("sacct"):
        with suppress(SlurmError):  # installed but not configured
            found = {**_sacct(missing), **found}
    return {handle: found.get(handle, RunState.GONE) for handle in handles}


def _squeue() -> dict[str, RunState]:
    wide = ",".join(f"{column}:32" for column in COLUMNS)
    found: dict[str, RunState] = {}
    for line in command("squeue", "--me", "--array", "--states=all", "--noheader", f"--Format={wide}").splitlines():
        array, task, job, state, restarts = (line[i * 32 : (i + 1) * 32].strip() for i in range(len(COLUMNS)))
        meaning = _meaning(state)
        if meaning is not None:
            handle = f"{array}_{task}" if task.isdigit() else job
            again = meaning == RunState.PENDING and restarts not in ("", "0", "N/A")
            found[handle] = RunState.REQUEUED if again else meaning
    return found


def _sacct(handles: Collection[str]) -> dict[str, RunState]:
    words = ("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={','.join(handles)}")
    pairs = (line.split("|")[:2] for line in command(*words).splitlines() if "|" in line)
    return {handle: meaning for handle, state in pairs if (meaning := _meaning(state)) is not None}


def _meaning(state: str) -> RunState | None:
    """`CANCELLED by 1000` is a state too."""
    return STATES.get(state.split()[0].rstrip("+") if state else "")
