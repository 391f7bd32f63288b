"""The composition root of `sunlab submit`: one run's folder, and its place in a scheduler's queue."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunlab.app.sweep import build_launcher
from sunlab.config.auto import recorded
from sunlab.config.load import LoadedConfig
from sunlab.config.write import dump
from sunlab.errors import ConfigError
from sunlab.files import write_json, write_text
from sunlab.sweep.environment import environment
from sunlab.sweep.folder import read_handle, write_handle
from sunlab.sweep.launchers import Job, Launcher
from sunlab.sweep.survey import WAITING


@dataclass(frozen=True)
class Submission:
    """A run to be queued. Attributes: launcher, and the options it was built from; text, the run's `config.yaml`."""

    launcher: Launcher
    options: Mapping[str, Any]
    job: Job
    text: str
    seed: int


def prepare(loaded: LoadedConfig, options: Mapping[str, Any]) -> Submission:
    """Check everything, touch nothing. Raises `ConfigError`, `RegistryError`.

    Args:
        options: of the launcher `slurm`, or of another one that they name.
    """
    options = {"name": "slurm", **options}
    config = loaded.config
    folder = Path(config.run.dir) / config.run.name
    words = ("fit", "--config", str((folder / "config.yaml").absolute()), "--resume", "auto")
    job = Job(config.run.name, config.run.name, folder, trainer=config.trainer, words=words)
    text = dump(recorded(loaded.saved, folder / "config.yaml"))  # as the run began, so that it is known as the same one
    return Submission(build_launcher(options), options, job, text, config.seed)


def submit(asked: Submission) -> tuple[str, bool]:
    """Queue the run. Its handle, and whether it was queued just now: one that waits or runs is left alone.

    Raises:
        ConfigError: the folder holds another run, or the launcher's own reasons.
        StorageError: nothing can be written there.
    """
    job = asked.job
    file = job.folder / "config.yaml"
    former = read_handle(job.folder)
    if former is not None:
        launcher = build_launcher(former.launcher)
        if launcher.states({job.id: former.handle}).get(job.id) in WAITING:
            return former.handle, False
    if file.is_file() and file.read_text(encoding="utf-8") != asked.text and any(job.folder.glob("checkpoints/*.ckpt")):
        raise ConfigError(f"{job.folder} holds a run with another configuration; give this one a run.name of its own")
    kept = file.read_text(encoding="utf-8") if file.is_file() else None
    write_text(file, asked.text)
    queued = ""
    try:
        for _, handle in asked.launcher.submit([job], {}):
            queued = handle
            write_handle(job.folder, asked.options, handle)
    except BaseException:
        if not queued:  # leave things as they were
            file.unlink() if kept is None else write_text(file, kept)
        raise
    write_json(job.folder / "environment.json", environment(seed=asked.seed))
    return queued, True
