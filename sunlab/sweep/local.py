"""Runs on this machine."""

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sunlab.errors import ConfigError
from sunlab.progress import Lines
from sunlab.sweep.launchers import LAUNCHERS, Job, Launcher
from sunlab.sweep.record import RunState, is_held, read_status
from sunlab.sweep.survey import last_line

PERIOD = 0.1  # seconds between two polls
STOPPED = 130  # 128 + SIGINT: the whole sweep stops


@LAUNCHERS.register("local")
class Local(Launcher):
    """Runs on this machine, each in a process of its own; in the foreground.

    Args:
        threads: CPU threads of each run; null: torch's default.
        parallel: runs at a time; parents end before their children begin.
    """

    def __init__(self, *, threads: int | None = None, parallel: int = 1):
        if parallel < 1:
            raise ConfigError(f"launcher.parallel: at least one run at a time, not {parallel}")
        self.threads, self.parallel = threads, parallel

    def script(self, jobs: Sequence[Job]) -> str:
        prefix = "" if self.threads is None else f"OMP_NUM_THREADS={self.threads} "
        return "".join(f"{prefix}{shlex.join(job.command)} >> {shlex.quote(str(job.log))} 2>&1\n" for job in jobs)

    def submit(self, jobs: Sequence[Job], earlier: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        waiting, running, failed = list(jobs), dict[str, tuple[Job, subprocess.Popen]](), set[str]()
        progress = Lines("sweep", len(jobs), unit="runs", rate=False)
        progress.begin()
        try:
            while waiting or running:
                unfinished = {job.id for job in waiting} | running.keys()
                ready = [job for job in waiting if not unfinished.intersection(job.needs)]
                for job in ready[: self.parallel - len(running)]:
                    waiting.remove(job)
                    if failed.intersection(job.needs):
                        failed.add(job.id)  # so that its own children do not start either
                        continue
                    process = self._start(job)
                    running[job.id] = (job, process)
                    yield job.id, f"{socket.gethostname()}:{process.pid}"
                self._await_one(running, failed, progress)
                progress.update(len(jobs) - len(waiting) - len(running))
        except BaseException:  # let the runs write their status
            for _, process in running.values():
                process.send_signal(signal.SIGINT)
            for _, process in running.values():
                process.wait()
            raise

    def _start(self, job: Job) -> subprocess.Popen:
        environment = dict(os.environ)
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        with job.log.open("ab") as log:
            return subprocess.Popen(
                job.command,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process only, which forwards it once
            )

    def _await_one(self, running: dict[str, tuple[Job, subprocess.Popen]], failed: set[str], progress: Lines) -> None:
        """Wait until at least one running job has ended, and remove it."""
        while running and all(process.poll() is None for _, process in running.values()):
            time.sleep(PERIOD)
            progress.add(0, lambda: [f"{job.name}: {last_line(job.log)}" for job, _ in running.values()])
        for id in [id for id, (_, process) in running.items() if process.returncode is not None]:
            job, process = running.pop(id)
            if process.returncode == STOPPED:
                raise KeyboardInterrupt
            if not ended_well(job.folder):
                failed.add(id)

    def states(self, handles: Mapping[str, str]) -> Mapping[str, RunState]:
        return {}  # status.json is all there is

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
    return status is not None and status.state == RunState.DONE and not is_held(folder)
