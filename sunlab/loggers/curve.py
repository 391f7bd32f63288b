"""The curves as CSV, one file a run, however often it is resumed."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sunlab.files import replacing
from sunlab.loggers.base import LOGGERS, RunLogger


class Rows(ExperimentWriter):
    """The rows of metrics.csv. Lightning's own deletes those of an earlier part of the run.

    What an interrupted run logged after the checkpoint that is resumed is dropped: those steps are made again.
    """

    def __init__(self, log_dir: str, *, resumed: bool):
        self._resumed = resumed
        super().__init__(log_dir)

    def _check_log_dir_exists(self) -> None:
        file = Path(self.metrics_file_path)
        if not self._resumed:
            file.unlink(missing_ok=True)
        elif file.is_file():
            self.metrics_keys = _read(file)[0]

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        if self._resumed and step is not None:
            self._resumed = False
            _drop(Path(self.metrics_file_path), step)
        super().log_metrics(metrics_dict, step)


@LOGGERS.register("csv")
class Curve(CSVLogger, RunLogger):
    """The curves and tables in the run's folder `csv`, written row by row, so that a kill loses none.

    The pictures and the configuration are files of the run anyway.
    """

    def __init__(self, folder: Path, name: str, resumed: bool):
        super().__init__(folder, name="", version="csv", flush_logs_every_n_steps=1)
        self._resumed = resumed

    @property
    @rank_zero_experiment
    def experiment(self) -> Rows:
        if not isinstance(self._experiment, Rows):
            self._experiment = Rows(self.log_dir, resumed=self._resumed)
        return self._experiment

    def log_config(self, tree: Mapping[str, Any]) -> None:
        """The run's config.yaml."""

    def log_pictures(self, key: str, images: Tensor, step: int) -> None:
        """The PNG files of the run."""

    @rank_zero_only
    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        file = Path(self.log_dir) / f"{key}.csv"
        with replacing(file) as temporary, temporary.open("w", newline="") as opened:
            csv.writer(opened).writerows([columns, *rows])


def _read(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    with file.open(newline="") as opened:
        reader = csv.DictReader(opened)
        return list(reader.fieldnames or []), list(reader)


def _drop(file: Path, step: int) -> None:
    """Leave out the rows from `step` on."""
    if not file.is_file():
        return
    names, rows = _read(file)
    with replacing(file) as temporary, temporary.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, names)
        writer.writeheader()
        writer.writerows(row for row in rows if int(row["step"]) < step)
