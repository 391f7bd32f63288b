"""trackio, on this machine alone."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sunlab.loggers.base import LOGGERS, arrays, inside, missing
from sunlab.loggers.service import ServiceLogger

REMOTE = "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID"
"""Variables that let trackio copy its folder from and to the Hub."""


@LOGGERS.register("trackio")
class Trackio(ServiceLogger):
    """trackio, in the run's folder `trackio`; `TRACKIO_DIR=runs/NAME/trackio trackio show` opens its dashboard.

    Nothing is sent to another machine.

    Args:
        project: that holds the run.
    """

    def __init__(self, folder: Path, name: str, resumed: bool, *, project: str = "sunlab"):
        place = inside(folder.resolve(), "trackio")
        super().__init__(place, resumed, project)
        self._name = name
        self._config: Mapping[str, Any] = {}
        try:
            self._trackio: Any = _trackio_in(place)
        except ModuleNotFoundError:
            raise missing("trackio") from None

    def begin(self, earlier: str | None) -> Any:
        """A `trackio.Run`, made without `trackio.init`, which follows TRACKIO_SPACE_ID to another machine."""
        run_type = _local(self._trackio.Run)
        return run_type(None, self._project, None, name=self._name, run_id=earlier, config=dict(self._config))

    def identify(self, run: Any) -> str:
        return str(run.id)

    def end(self, run: Any) -> None:
        run.finish()

    @rank_zero_only
    def log_config(self, tree: Mapping[str, Any]) -> None:
        self._config = tree  # a run takes its configuration when it begins
        _ = self.experiment

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


def _trackio_in(folder: Path) -> Any:
    """trackio with its files in `folder`. It reads TRACKIO_DIR on import, so another folder needs another import."""
    for name in REMOTE:
        os.environ.pop(name, None)
    if os.environ.get("TRACKIO_DIR") != str(folder):
        os.environ["TRACKIO_DIR"] = str(folder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "trackio" and sys.modules[name]]:
            del sys.modules[name]
    return import_module("trackio")


def _local(run_type: Any) -> Any:
    """A `trackio.Run` that does not send the machine's token to the Hub to learn the account's name."""

    class Run(run_type):
        def _get_username(self) -> None:
            """Of the run's author; no parameter of trackio 0.43 sets it."""

    return Run
