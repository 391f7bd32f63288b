"""MLflow."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sunlab.loggers.base import LOGGERS, RunId, RunLogger, arrays, inside, missing


@LOGGERS.register("mlflow")
class MLflow(MLFlowLogger, RunLogger):
    """MLflow, in the run's folder `mlflow`, or on a server.

    Args:
        experiment: that holds the run.
        tracking_uri: of a server; null: the folder.
    """

    def __init__(
        self, folder: Path, name: str, resumed: bool, *, experiment: str = "sunlab", tracking_uri: str | None = None
    ):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions refuse a folder without it
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it reports its use to MLflow's authors otherwise
        place = inside(folder.resolve(), "mlflow")
        self._kept = RunId(place, resumed)
        try:
            super().__init__(
                experiment, run_name=name, tracking_uri=tracking_uri or place.as_uri(), run_id=self._kept.earlier
            )
        except ModuleNotFoundError:
            raise missing("mlflow") from None

    @rank_zero_only
    def log_config(self, tree: Mapping[str, Any]) -> None:
        self._kept.keep(str(self.run_id))
        self.experiment.log_text(self.run_id, yaml.safe_dump(dict(tree), sort_keys=False), "config.yaml")

    @rank_zero_only
    def log_pictures(self, key: str, images: Tensor, step: int) -> None:
        for index, array in enumerate(arrays(images)):
            self.experiment.log_image(self.run_id, array, f"{key}/{step:07d}-{index:02d}.png")

    @rank_zero_only
    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        values = [dict(zip(columns, row, strict=True)) for row in rows]
        self.experiment.log_dict(self.run_id, {"step": step, "rows": values}, f"{key}.json")
