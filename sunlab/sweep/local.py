"""Runs on this machine."""

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sunlab.sweep.launchers import LAUNCHERS, Job, Launcher, Queued
from sunlab.sweep.record import DONE, is_held, read_status

STOPPED = 130  # 128 + SIGINT: somebody wants the whole sweep to stop


@LAUNCHERS.register("local")
class Local(Launcher):
    """One run after the other on this machine, each in a process of its own; in the foreground.

    Args:
        threads: CPU threads of each run; null leaves it to torch.
    """

    def __init__(self, *, threads: int | None = None):
        self.threads = threads

    def script(self, jobs: Sequence[Job]) -> str:
        prefix = "" if self.threads is None else f"OMP_NUM_THREADS={self.threads} "
        return "".join(f"{prefix}{shlex.join(job.command)} >> {shlex.quote(str(job.log))} 2>&1\n" for job in jobs)

    def submit(self, jobs: Sequence[Job], earlier: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        environment = dict(os.environ)
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        failed: set[str] = set()
        for job in jobs:
            if failed.intersection(job.needs):
                failed.add(job.id)  # so that its own children do not start either
                continue
            with job.log.open("ab") as log:
                process = subprocess.Popen(
                    job.command,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # the terminal's Ctrl-C comes here alone, and is handed on once
                )
            try:
                yield job.id, f"{socket.gethostname()}:{process.pid}"
                code = process.wait()
            except BaseException:  # let the run write down how it ended
                process.send_signal(signal.SIGINT)
                process.wait()
                raise
            if code == STOPPED:
                raise KeyboardInterrupt
            if not ended_well(job.folder):
                failed.add(job.id)

    def states(self, handles: Mapping[str, str]) -> Mapping[str, Queued]:
        return {}  # what a run says of itself is all there is to know

    def cancel(self, handles: Mapping[str, str]) -> None:
        for handle in handles.values():
            host, _, pid = handle.rpartition(":")
            if host == socket.gethostname():
                try:
                    os.kill(int(pid), signal.SIGINT)
                except ProcessLookupError:
                    continue


def ended_well(folder: Path) -> bool:
    status = read_status(folder)
    return status is not None and status.state == DONE and not is_held(folder)
