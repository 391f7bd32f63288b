"""The contract of a launcher."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from registry import Registry

Queued = Literal["pending", "running", "requeued", "done", "failed", "cancelled", "gone"]
"""What a scheduler may know of a run. `requeued`: it ran before, was put back and waits. `gone`: it is neither queued nor
remembered."""


@dataclass(frozen=True)
class Job:
    """One run, as a launcher sees it.

    Attributes:
        id: the run's identity.
        name: for people: its label and seed.
        folder: the run's own; its `config.yaml` is there already.
        needs: identities of the runs that must be done before it starts.
        trainer: its configuration's `trainer:`; empty: it stands in `config.yaml`.
        words: arguments of `sunlab` in the place of `sweep run FOLDER`.
    """

    id: str
    name: str
    folder: Path
    needs: tuple[str, ...] = ()
    trainer: Mapping[str, Any] = field(default_factory=dict, compare=False)
    words: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """All that is ever run. It writes `status.json` and the rest itself, goes on from a checkpoint that is there, does
        nothing where the run is done, and refuses to start where another process runs it. Its exit code is `sunlab fit`'s:
        75 asks for another attempt.
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
        """What would be run, for a person to read: `--dry-run` prints it. Touches nothing."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job], earlier: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Start every job, or queue it, and yield each one's (id, handle) as soon as there is one.

        A launcher of the foreground yields when a run has started and goes on with the next when it has ended; one of a
        scheduler returns when all are queued. A job that fails does not stop the others; those that need it do not start.

        Args:
            jobs: parents before children. A needed run that is neither here nor in `earlier` is done.
            earlier: handles, by run, of what this launcher queued before and has not finished.

        Raises:
            ConfigError: wrong options (an unknown partition, no such command); no job is started then.
        """

    @abstractmethod
    def states(self, handles: Mapping[str, str]) -> Mapping[str, Queued]:
        """What is known now of the runs behind `handles`, by run; one of which nothing can be known is left out. What a run
        says of itself in `status.json` counts more.

        Raises:
            ConfigError: the scheduler does not answer.
        """

    @abstractmethod
    def cancel(self, handles: Mapping[str, str]) -> None:
        """Stop those that run and forget those that wait. One that has ended is no error."""


LAUNCHERS: Registry[Launcher] = Registry(
    "launcher",
    base=Launcher,
    entry_points="sunlab.launchers",
    components=("sunlab.sweep.local", "sunlab.sweep.slurm"),
)
