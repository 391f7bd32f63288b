"""Runs in the queue of a Slurm cluster."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from registry import suggestion
from sunlab.config.read import read_file
from sunlab.distributed.signals import postponed
from sunlab.errors import ConfigError, StorageError
from sunlab.files import write_text
from sunlab.sweep.launchers import LAUNCHERS, Job, Launcher
from sunlab.sweep.queue import SlurmError, command, known
from sunlab.sweep.record import RunState
from sunlab.sweep.sbatch import Batch, Task, check_notice, free_options, oneline, pattern, render

LARGEST = 1000  # tasks of an array; Slurm's own default limit is 1001
PROBE = 1 << 16  # bytes
STRANGE = re.compile(r"unrecognized option '--([a-z0-9-]+)")
LONG = re.compile(r"--([a-z][a-z0-9-]+)")


@LAUNCHERS.register("slurm")
class Slurm(Launcher):
    """Job arrays on a Slurm cluster; nodes and processes on each from every run's trainer.num_nodes and trainer.devices.

    Args:
        partition, account, qos, constraint: sbatch's options; null: the cluster's defaults.
        time: limit, such as 12:00:00 or 2-00:00:00.
        notice: seconds before the limit at which a run receives SIGUSR1, saves a checkpoint and is requeued.
        gpus: on each node, such as 8 or "a100:8"; null: trainer.devices where trainer.accelerator is gpu.
        cpus: of each process.
        memory: of each node, such as 64G.
        throttle: runs of an array at a time; null: no limit.
        restarts: how often a job is requeued at most.
        container: an image: a .sif file for Apptainer, else a name or file for Pyxis.
        mounts: folders to mount in it, besides the working folder and the runs'.
        python: the interpreter that has sunlab; null: this one; in a container python3.
        sbatch: further long options of sbatch without leading dashes: {mem_per_cpu: 4G, exclusive: true}.
    """

    def __init__(
        self,
        *,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        time: str | None = None,
        notice: int = 120,
        gpus: int | str | None = None,
        cpus: int | None = None,
        memory: str | None = None,
        throttle: int | None = None,
        restarts: int = 100,
        container: str | None = None,
        mounts: list[str] = [],  # noqa: B006 # never changed
        python: str | None = None,
        sbatch: dict[str, Any] = {},  # noqa: B006
    ):
        check_notice(notice, time)
        for key, value, least in (("throttle", throttle, 1), ("restarts", restarts, 0), ("cpus", cpus, 1)):
            if value is not None and value < least:
                raise ConfigError(f"launcher.{key}: must be at least {least}, got {value}")
        for key, word in (("container", container), ("python", python)):
            if word is not None and (not word or word.startswith("-")):
                raise ConfigError(f"launcher.{key}: {word!r} would be taken for an option; give a path, such as ./{word}")
        self.site = {
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "time": time,
            "mem": memory,
            "cpus-per-task": cpus,
            **free_options(sbatch),
        }
        self.notice, self.gpus, self.cpus, self.throttle, self.restarts = notice, gpus, cpus, throttle, restarts
        self.container, self.mounts = container, mounts
        self.python = python or (None if container is None else "python3")

    def script(self, jobs: Sequence[Job]) -> str:
        names = {job.id: f"<{oneline(job.name)}>" for job in jobs}
        return "\n".join(render(self._batch(group, names)) for group in groups(jobs))

    def submit(self, jobs: Sequence[Job], earlier: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Also raises `StorageError` if logs cannot be written."""
        for folder in {job.folder.parent for job in jobs}:
            probe(folder)
        handles = dict(earlier)
        for group in groups(jobs):
            script = render(self._batch(group, handles))
            with postponed():  # until the caller has every handle: a job without one would be queued twice
                number = self._sbatch(script, group)
                for index, job in enumerate(group):
                    handles[job.id] = f"{number}_{index}" if len(group) > 1 else number
                    yield job.id, handles[job.id]

    def states(self, handles: Mapping[str, str]) -> Mapping[str, RunState]:
        try:
            found = known(set(handles.values()))
        except SlurmError as error:
            raise ConfigError(f"launcher slurm: {error}") from None
        return {run: found[handle] for run, handle in handles.items() if handle in found}

    def cancel(self, handles: Mapping[str, str]) -> None:
        try:
            command("scancel", "--quiet", *handles.values())
        except SlurmError as error:
            raise ConfigError(f"launcher slurm: {error}") from None

    def _batch(self, jobs: Sequence[Job], handles: Mapping[str, str]) -> Batch:
        nodes, processes, on_gpus = shape(jobs[0])
        needs = [handles[need] for need in jobs[0].needs if need in handles]
        count = f"0-{len(jobs) - 1}" + ("" if self.throttle is None else f"%{self.throttle}")
        folder = home(jobs)
        output = folder / ("%A_%a.log" if len(jobs) > 1 else "%j.log")
        directives = {
            "job-name": oneline(jobs[0].folder.absolute().parents[1].name if len(jobs) > 1 else jobs[0].name),
            "array": count if len(jobs) > 1 else None,
            "dependency": f"afterok:{':'.join(needs)}" if needs else None,
            "kill-on-invalid-dep": "yes" if needs else None,  # a child of a failed run would wait forever
            "nodes": nodes,
            "ntasks-per-node": processes,
            "gpus-per-node": self.gpus if self.gpus is not None else (processes if on_gpus else None),
            **self.site,
            "chdir": Path.cwd(),
            "output": f"{pattern(folder)}/{output.name}",
            "open-mode": "append",  # a requeued job would truncate its log
            "requeue": True,
            "signal": f"USR1@{self.notice}",
        }
        tasks = [Task(job.name, self._command(job), job.log.absolute()) for job in jobs]
        title = f"sunlab: {len(jobs)} runs" if len(jobs) > 1 else f"sunlab: {jobs[0].name}"
        return Batch(title, directives, self._srun(jobs), tasks, self.restarts)

    def _command(self, job: Job) -> list[str]:
        """With absolute folders, and the interpreter of `python`."""
        words = [str(job.folder.absolute()) if word == str(job.folder) else word for word in job.command]
        return [self.python or words[0], *words[1:]]

    def _srun(self, jobs: Sequence[Job]) -> list[str]:
        words = ["srun", "--kill-on-bad-exit=1", "--wait=0"]  # a site may kill a step some time after its first rank ends
        if self.cpus is not None:
            words.append(f"--cpus-per-task={self.cpus}")  # srun does not take it from the job
        if self.container is None:
            return words
        shown = list(dict.fromkeys([str(Path.cwd()), str(jobs[0].folder.parent.absolute()), *self.mounts]))
        if self.container.endswith(".sif"):
            nv = ["--nv"] if self.gpus is not None or shape(jobs[0])[2] else []
            return [*words, "apptainer", "exec", *nv, "--bind", ",".join(shown), "--pwd", shown[0], self.container]
        mounts = ",".join(f"{path}:{path}" for path in shown)
        return [
            *words,
            f"--container-image={self.container}",
            f"--container-mounts={mounts}",
            f"--container-workdir={shown[0]}",
        ]

    def _sbatch(self, script: str, jobs: Sequence[Job]) -> str:
        """Queue the script, which is kept beside the logs. Returns the job's number."""
        file = home(jobs) / f"{datetime.now():%Y%m%d-%H%M%S}-{jobs[0].id}.sbatch"
        command("sbatch", "--version")  # before anything is written
        write_text(file, script)
        try:
            answer = command("sbatch", "--parsable", str(file)).strip().split(";")[0]
        except SlurmError as error:
            file.unlink()
            raise ConfigError(f"launcher slurm: {error}{self._remedy(str(error))}") from None
        if not answer.isdecimal():
            raise ConfigError(f"launcher slurm: expected a job number from sbatch, got {answer!r}; check {file} and squeue")
        return answer

    def _remedy(self, error: str) -> str:
        partition, strange = self.site["partition"], STRANGE.search(error)
        try:
            if strange:
                there = sorted(set(LONG.findall(command("sbatch", "--help"))))
                return f"\n  launcher.sbatch: {suggestion(strange[1], there, noun='sbatch takes')}"
            if partition is not None and "partition" in error:
                there = command("sinfo", "--noheader", "--format=%R").split()
                return f"\n  launcher.partition: {suggestion(str(partition), there, noun='this cluster has')}"
        except (SlurmError, ConfigError):
            pass
        return ""


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs of each array: those with the same needs and shape. Parents come before children."""
    depth: dict[str, int] = {}
    for job in jobs:  # parents first
        depth[job.id] = 1 + max((depth[need] for need in job.needs if need in depth), default=0)
    alike: dict[Any, list[Job]] = {}
    for job in sorted(jobs, key=lambda job: depth[job.id]):
        alike.setdefault((frozenset(job.needs), shape(job)), []).append(job)
    return [group[start : start + LARGEST] for group in alike.values() for start in range(0, len(group), LARGEST)]


def shape(job: Job) -> tuple[int, int, bool]:
    """Nodes, processes on each, and whether they compute on GPUs."""
    file = job.folder / "config.yaml"
    trainer = job.trainer or (read_file(file).get("trainer") or {} if file.is_file() else {})
    devices = trainer.get("devices", 1)
    processes: Any = len(devices) if isinstance(devices, list) else devices
    if type(processes) is not int or processes < 1:
        raise ConfigError(
            f"{file}: trainer.devices: expected the processes per node, an integer above 0 or a list, got {devices!r}"
        )
    return int(trainer.get("num_nodes", 1)), processes, trainer.get("accelerator") in ("gpu", "cuda")


def home(jobs: Sequence[Job]) -> Path:
    """The folder of the script and Slurm's own output: in the run's folder, or for an array in the sweep's."""
    folder = jobs[0].folder.absolute()
    return (folder if len(jobs) == 1 else folder.parents[1]) / "slurm"


def probe(folder: Path) -> None:
    """Write and flush a file: Slurm does not start a job whose log it cannot write, and reports that only in its own log.

    Raises:
        StorageError: a full disk, no permission.
    """
    file = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            opened.write(bytes(PROBE))
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise StorageError(f"{folder}: logs cannot be written here: {error.strerror or error}; no job was queued") from None
    finally:
        with suppress(OSError):
            file.unlink()
