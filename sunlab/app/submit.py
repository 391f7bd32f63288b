"""The use case of `sunlab submit`: write one run's folder and queue the run."""

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
from sunlab.sweep.folder import read_handle, write_handle
from sunlab.sweep.launchers import Job, Launcher
from sunlab.sweep.record import RunState, environment


@dataclass(frozen=True)
class Submission:
    """A run to be queued. Attributes: launcher, and the options it was built from; text, the run's `config.yaml`."""

    launcher: Launcher
    options: Mapping[str, Any]
    job: Job
    text: str
    seed: int


def prepare(loaded: LoadedConfig, options: Mapping[str, Any]) -> Submission:
    """Check everything, write nothing. Raises `ConfigError`, `RegistryError`.

    Args:
        options: of the launcher `slurm`, or of another one that they name.
    """
    options = {"name": "slurm", **options}
    config = loaded.config
    folder = Path(config.run.dir) / config.run.name
    words = ("fit", "--config", str((folder / "config.yaml").absolute()), "--resume", "auto")
    job = Job(config.run.name, config.run.name, folder, trainer=config.trainer, words=words)
    text = dump(recorded(loaded.saved, folder / "config.yaml"))  # as at its start, so that it compares equal
    return Submission(build_launcher(options), options, job, text, config.seed)


def submit(submission: Submission) -> tuple[str, bool]:
    """Queue the run, unless it waits or runs already. Returns its handle, and whether it was queued now.

    Raises:
        ConfigError: the folder holds another run, or the launcher fails.
        StorageError: nothing can be written there.
    """
    job = submission.job
    file = job.folder / "config.yaml"
    former = read_handle(job.folder)
    if former is not None:
        launcher = build_launcher(former.launcher)
        state = launcher.states({job.id: former.handle}).get(job.id)
        if state is not None and RunState(state).is_queued:
            return former.handle, False
    if file.is_file() and file.read_text(encoding="utf-8") != submission.text and any(job.folder.glob("checkpoints/*.ckpt")):
        raise ConfigError(f"{job.folder} holds a run with another configuration; set another run.name")
    kept = file.read_text(encoding="utf-8") if file.is_file() else None
    write_text(file, submission.text)
    queued = ""
    try:
        for _, handle in submission.launcher.submit([job], {}):
            queued = handle
            write_handle(job.folder, submission.options, handle)
    except BaseException:
        if not queued:  # restore the folder
            file.unlink() if kept is None else write_text(file, kept)
        raise
    write_json(job.folder / "environment.json", environment(seed=submission.seed))
    return queued, True
