"""MLflow."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sunlab.loggers.base import LOGGERS, RunLogger, inside, missing


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
        place = tracking_uri or inside(folder.resolve(), "mlflow").as_uri()
        try:
            super().__init__(experiment, run_name=name, tracking_uri=place)
        except ModuleNotFoundError:
            raise missing("mlflow", "mlflow") from None

    @rank_zero_only
    def log_config(self, tree: Mapping[str, Any]) -> None:
        self.experiment.log_text(self.run_id, yaml.safe_dump(dict(tree), sort_keys=False), "config.yaml")

    @rank_zero_only
    def log_pictures(self, key: str, images: Tensor, step: int) -> None:
        for index, image in enumerate(images.float().cpu()):
            array = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            self.experiment.log_image(self.run_id, array, f"{key}/{step:07d}-{index:02d}.png")

    @rank_zero_only
    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        values = [dict(zip(columns, row, strict=True)) for row in rows]
        self.experiment.log_dict(self.run_id, {"step": step, "rows": values}, f"{key}.json")
