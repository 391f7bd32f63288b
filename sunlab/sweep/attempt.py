"""One attempt at one run, in a process of its own; whatever happens, `status.json` says how it ended."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Literal

from sunlab.distributed.ranks import first_rank
from sunlab.distributed.signals import Signals
from sunlab.errors import INTERNAL, INTERRUPTED, ConfigError, Preempted, exit_code
from sunlab.files import hold
from sunlab.sweep.folder import read_run
from sunlab.sweep.grid import Run
from sunlab.sweep.record import DONE, Status, beating, here, read_status, write_status

PATIENCE = 120.0  # seconds; a job that was put back waits for the lock of the node that died
LONGEST = 400  # characters of an error in a status; the log has all

Work = Callable[[Run, Path, Signals], None]


def attempt(folder: Path, work: Work, assist: Work) -> None:
    """Do what is left to do of the run in `folder`; nothing where it is done.

    Args:
        work: of the first rank; it alone writes files.
        assist: of the others.

    Raises:
        ConfigError: not a run's folder, another process has the run, or a run that it needs is not done.
        Preempted: the training was asked to stop; another attempt goes on from its checkpoint.
    """
    asked = read_run(folder)
    with Signals() as signals:  # before torch is imported, which takes long enough for one to come
        if not first_rank():
            assist(asked, folder, signals)
        else:
            _attempt(asked, folder, work, signals)


def _attempt(asked: Run, folder: Path, work: Work, signals: Signals) -> None:
    with hold(folder, patience=PATIENCE if "SLURM_JOB_ID" in os.environ else 0.4):
        former = read_status(folder)
        if former is not None and former.state == DONE:
            print(f"{asked.name}: done already")
            return
        for need in asked.needs:
            parent = read_status(folder.parent / need)
            if parent is None or parent.state != DONE:
                state = "not started" if parent is None else parent.state
                raise ConfigError(f"{folder}: needs the run {need}, which is {state}")  # and is left as it was
        status = here(1 if former is None else former.attempt + 1)
        write_status(folder, status)
        print(f"{asked.name}, attempt {status.attempt}", flush=True)
        try:
            with beating(folder):
                work(asked, folder, signals)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)
            write_status(folder, ended(status, KeyboardInterrupt("interrupted") if interrupted else error))
            if interrupted:  # Lightning makes an exit of it
                raise KeyboardInterrupt from None
            raise
        write_status(folder, replace(status, state=DONE, ended=time(), exit_code=0))


def ended(status: Status, error: BaseException) -> Status:
    """How an attempt ended that did not do all."""
    code = exit_code(error) if isinstance(error, Exception) else None
    if isinstance(error, KeyboardInterrupt):
        code = INTERRUPTED
    elif isinstance(error, SystemExit) and isinstance(error.code, int):
        code = error.code
    message = " ".join(str(error).split())
    told = message if code is not None else f"{type(error).__name__}: {message}"
    stopped = code in (INTERRUPTED, Preempted.exit_code)
    code = INTERNAL if code is None else code
    state: Literal["stopped", "failed"] = "stopped" if stopped else "failed"
    return replace(status, state=state, ended=time(), exit_code=code, error=told[:LONGEST])
