"""TensorBoard's event files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sunlab.loggers.base import LOGGERS, RunLogger, markdown


@LOGGERS.register("tensorboard")
class TensorBoard(TensorBoardLogger, RunLogger):
    """Event files in the run's folder `tb`."""

    def __init__(self, folder: Path, name: str, resumed: bool):
        super().__init__(folder, name="", version="tb")

    @rank_zero_only
    def log_config(self, tree: Mapping[str, Any]) -> None:
        self.experiment.add_text("config", f"```yaml\n{yaml.safe_dump(dict(tree), sort_keys=False)}```", 0)

    @rank_zero_only
    def log_pictures(self, key: str, images: Tensor, step: int) -> None:
        self.experiment.add_images(key, images, step)

    @rank_zero_only
    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        self.experiment.add_text(key, markdown(columns, rows), step)
