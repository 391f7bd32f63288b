"""trackio, on this machine alone."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sunlab.loggers.base import LOGGERS, RunId, RunLogger, arrays, inside, missing


@LOGGERS.register("trackio")
class Trackio(RunLogger):
    """trackio, in the run's folder `trackio`; `TRACKIO_DIR=runs/NAME/trackio trackio show` opens its dashboard.

    Args:
        project: that holds the run.
    """

    def __init__(self, folder: Path, name: str, resumed: bool, *, project: str = "sunlab"):
        super().__init__()
        place = inside(folder.resolve(), "trackio")
        self._kept = RunId(place, resumed)
        self._name, self._project = name, project
        self._config: Mapping[str, Any] = {}
        self._run: Any = None
        try:
            self._trackio: Any = _trackio_in(place)
        except ModuleNotFoundError:
            raise missing("trackio", "trackio") from None

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        return self._kept.earlier if self._run is None else str(self._run.id)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `trackio.Run`. Made without `trackio.init`, which follows TRACKIO_SPACE_ID to another machine."""
        if self._run is None:
            self._run = self._trackio.Run(
                None, self._project, None, name=self._name, run_id=self._kept.earlier, config=dict(self._config)
            )
        return self._run

    @rank_zero_only
    def log_config(self, tree: Mapping[str, Any]) -> None:
        self._config = tree
        self._kept.keep(str(self.experiment.id))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The module's; the configuration has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step)

    @rank_zero_only
    def log_pictures(self, key: str, images: Tensor, step: int) -> None:
        self.experiment.log({f"{key}/{i:02d}": self._trackio.Image(each) for i, each in enumerate(arrays(images))}, step)

    @rank_zero_only
    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        table = self._trackio.Table(columns=list(columns), data=[list(row) for row in rows])
        self.experiment.log({f"{key}_table": table}, step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


def _trackio_in(folder: Path) -> Any:
    """trackio with its files in `folder`. It reads TRACKIO_DIR on import, so another folder needs another import."""
    if os.environ.get("TRACKIO_DIR") != str(folder):
        os.environ["TRACKIO_DIR"] = str(folder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "trackio" and sys.modules[name]]:
            del sys.modules[name]
    return import_module("trackio")
