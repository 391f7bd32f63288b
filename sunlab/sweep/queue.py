"""What Slurm's own commands say, each with a deadline; and what its states mean."""

import shutil
import subprocess
from collections.abc import Collection, Mapping
from contextlib import suppress

from sunlab.errors import ConfigError
from sunlab.sweep.launchers import Queued

DEADLINE = 60.0  # seconds for an answer of the controller
STATES: dict[str, Queued] = {
    **dict.fromkeys(("PENDING", "CONFIGURING", "REQUEUE_FED", "RESV_DEL_HOLD"), "pending"),
    **dict.fromkeys(("REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"), "requeued"),
    **dict.fromkeys(("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SIGNALING", "RESIZING"), "running"),
    "COMPLETED": "done",
    **dict.fromkeys(("CANCELLED", "REVOKED"), "cancelled"),
    **dict.fromkeys(("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED"), "failed"),
}
COLUMNS = ("ArrayJobID", "ArrayTaskID", "JobID", "State", "RestartCnt")


class Refused(Exception):
    """A command of Slurm's failed; the message is its own."""


def ask(*words: str) -> str:
    """Run one of Slurm's commands, out of reach of the terminal's Ctrl-C: what it has begun it ends.

    Raises:
        ConfigError: there is no such command here.
        Refused: it failed, or had no answer in time.
    """
    if shutil.which(words[0]) is None:
        raise ConfigError(
            f"launcher slurm: no command {words[0]!r} on this machine; start this on a login node of the cluster, "
            "or use launcher local"
        )
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False, start_new_session=True)
    except subprocess.TimeoutExpired:
        raise Refused(f"{words[0]} gave no answer in {DEADLINE:.0f} s") from None
    if answer.returncode:
        raise Refused(answer.stderr.strip() or f"{words[0]} ended with {answer.returncode}")
    return answer.stdout


def known(handles: Collection[str]) -> Mapping[str, Queued]:
    """The states of jobs, by handle (`123`, or `123_4` in an array), as far as squeue and sacct know them now; nothing where
    there is no squeue.

    squeue forgets a job minutes after its end; sacct, which need not be there, never does, but lags by seconds.

    Raises:
        Refused: squeue does not answer.
    """
    if not handles or not shutil.which("squeue"):
        return {}
    found = _squeue()
    missing = [handle for handle in handles if handle not in found]
    if missing and shutil.which("sacct"):
        with suppress(Refused):  # it may be installed, and not configured
            found = {**_sacct(missing), **found}
    return {handle: found.get(handle, "gone") for handle in handles}


def _squeue() -> dict[str, Queued]:
    wide = ",".join(f"{column}:32" for column in COLUMNS)
    found: dict[str, Queued] = {}
    for line in ask("squeue", "--me", "--array", "--states=all", "--noheader", f"--Format={wide}").splitlines():
        array, task, job, state, restarts = (line[i * 32 : (i + 1) * 32].strip() for i in range(len(COLUMNS)))
        meaning = _meaning(state)
        if meaning is not None:
            handle = f"{array}_{task}" if task.isdigit() else job
            found[handle] = "requeued" if meaning == "pending" and restarts not in ("", "0", "N/A") else meaning
    return found


def _sacct(handles: Collection[str]) -> dict[str, Queued]:
    words = ("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={','.join(handles)}")
    pairs = (line.split("|")[:2] for line in ask(*words).splitlines() if "|" in line)
    return {handle: meaning for handle, state in pairs if (meaning := _meaning(state)) is not None}


def _meaning(state: str) -> Queued | None:
    """`CANCELLED by 1000` is a state too."""
    return STATES.get(state.split()[0].rstrip("+") if state else "")
