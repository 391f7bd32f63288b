"""The contract of a launcher."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry import Registry
from sunlab.sweep.record import RunState


@dataclass(frozen=True)
class Job:
    """One run, as a launcher sees it.

    Attributes:
        id: the run's identity.
        name: its label and seed, for people.
        folder: the run's own; its `config.yaml` is there already.
        needs: identities of the runs that must be done before it starts.
        trainer: its configuration's `trainer:`; empty: it stands in `config.yaml`.
        words: arguments of `sunlab`; empty: `sweep run FOLDER`.
    """

    id: str
    name: str
    folder: Path
    needs: tuple[str, ...] = ()
    trainer: Mapping[str, Any] = field(default_factory=dict, compare=False)
    words: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """What a launcher starts. The command writes `status.json` and all other files of the run, resumes from the last
        checkpoint, does nothing if the run is done, and fails if another process runs it. Its exit codes are those of
        `sunlab fit`; 75: to be started again.
        """
        return [sys.executable, "-m", "sunlab", *(self.words or ("sweep", "run", str(self.folder)))]

    @property
    def log(self) -> Path:
        """Where standard output and standard error go, appended over the attempts."""
        return self.folder / "log.txt"


class Launcher(ABC):
    """Starts runs somewhere: in the foreground, or in a scheduler's queue."""

    @abstractmethod
    def script(self, jobs: Sequence[Job]) -> str:
        """What would be run, for people: `--dry-run` prints it. Writes nothing."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job], earlier: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Start or queue every job and yield its (id, handle) at once.

        A launcher in the foreground yields when a run has started, and returns when all have ended; one of a scheduler
        returns when all are queued. After a failure the other jobs go on, except those that need the failed one.

        Args:
            jobs: parents before children. A needed run that is neither here nor in `earlier` is done.
            earlier: handles, by run, of unfinished jobs that this launcher queued before.

        Raises:
            ConfigError: wrong options (an unknown partition, no such command); no job is started then.
        """

    @abstractmethod
    def states(self, handles: Mapping[str, str]) -> Mapping[str, RunState]:
        """The states of the runs of `handles`, by run; runs of unknown state are left out. What a run wrote into its
        `status.json` goes before this.

        Raises:
            ConfigError: the scheduler cannot be reached.
        """

    @abstractmethod
    def cancel(self, handles: Mapping[str, str]) -> None:
        """Stop running jobs and remove waiting ones from the queue. Jobs that have ended are ignored."""


LAUNCHERS: Registry[Launcher] = Registry(
    "launcher",
    base=Launcher,
    entry_points="sunlab.launchers",
    components=("sunlab.sweep.local", "sunlab.sweep.slurm"),
)
