"""One attempt at a run, in a process of its own. `status.json` records how it ended."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import time

from sunlab.distributed.ranks import first_rank
from sunlab.distributed.signals import Signals
from sunlab.errors import INTERNAL, INTERRUPTED, ConfigError, Preempted, exit_code
from sunlab.files import hold
from sunlab.sweep.folder import read_run
from sunlab.sweep.grid import Run
from sunlab.sweep.record import RunState, Status, beating, here, read_status, write_status

PATIENCE = 120.0  # seconds; a requeued job waits for the lock of a node that died
LONGEST = 400  # characters of an error in a status; the log has the whole

Work = Callable[[Run, Path, Signals], None]


def attempt(folder: Path, work: Work, assist: Work) -> None:
    """Complete the run in `folder`; does nothing if it is done.

    Args:
        work: called on the first rank, which alone writes files.
        assist: called on the other ranks.

    Raises:
        ConfigError: not a run's folder, another process runs it, or a run that it needs is not done.
        Preempted: a signal stopped the training; another attempt resumes from its checkpoint.
    """
    entry = read_run(folder)
    with Signals() as signals:  # before torch is imported, which takes seconds
        if not first_rank():
            assist(entry, folder, signals)
        else:
            _attempt(entry, folder, work, signals)


def _attempt(entry: Run, folder: Path, work: Work, signals: Signals) -> None:
    with hold(folder, patience=PATIENCE if "SLURM_JOB_ID" in os.environ else 0.4):
        former = read_status(folder)
        if former is not None and former.state is RunState.DONE:
            print(f"{entry.name}: done already")
            return
        for need in entry.needs:
            parent = read_status(folder.parent / need)
            if parent is None or parent.state is not RunState.DONE:
                state = "not started" if parent is None else parent.state
                raise ConfigError(f"{folder}: needs the run {need}, which is {state}")  # its status is unchanged
        status = here(1 if former is None else former.attempt + 1)
        write_status(folder, status)
        print(f"{entry.name}, attempt {status.attempt}", flush=True)
        try:
            with beating(folder):
                work(entry, folder, signals)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)
            write_status(folder, ended(status, KeyboardInterrupt("interrupted") if interrupted else error))
            if interrupted:  # Lightning raises SystemExit
                raise KeyboardInterrupt from None
            raise
        write_status(folder, replace(status, state=RunState.DONE, ended=time(), exit_code=0))


def ended(status: Status, error: BaseException) -> Status:
    """The status after `error`."""
    code = exit_code(error) if isinstance(error, Exception) else None
    if isinstance(error, KeyboardInterrupt):
        code = INTERRUPTED
    elif isinstance(error, SystemExit) and isinstance(error.code, int):
        code = error.code
    message = " ".join(str(error).split())
    text = message if code is not None else f"{type(error).__name__}: {message}"
    stopped = code in (INTERRUPTED, Preempted.exit_code)
    code = INTERNAL if code is None else code
    state = RunState.STOPPED if stopped else RunState.FAILED
    return replace(status, state=state, ended=time(), exit_code=code, error=text[:LONGEST])
