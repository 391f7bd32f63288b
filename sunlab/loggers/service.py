"""A logger over the client of a service that Lightning has no logger for."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from sunlab.loggers.base import RunId, RunLogger


class ServiceLogger(RunLogger):
    """The service's run begins with the first record and ends with `close`.

    Args:
        place: folder of the logger's own files.
        resumed: whether the service's run of that folder is continued.
        project: name under which the service groups runs.
    """

    def __init__(self, place: Path, resumed: bool, project: str):
        super().__init__()
        self._kept, self._project = RunId(place, resumed), project
        self._run: Any = None

    @abstractmethod
    def begin(self, earlier: str | None) -> Any:
        """Begin a run of the service, or continue the one of the id `earlier`."""

    @abstractmethod
    def identify(self, run: Any) -> str:
        """Return the id of a run."""

    @abstractmethod
    def end(self, run: Any) -> None:
        """Write what is left and end the run."""

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        return self._kept.earlier if self._run is None else self.identify(self._run)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The service's run."""
        if self._run is None:
            self._run = self.begin(self._kept.earlier)
            self._kept.keep(self.identify(self._run))
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The module's; the configuration has them."""

    def close(self) -> None:
        if self._run is not None:
            self.end(self._run)
            self._run = None
