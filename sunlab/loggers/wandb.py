"""Weights & Biases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sunlab.loggers.base import LOGGERS, RunId, RunLogger, inside, missing


@LOGGERS.register("wandb")
class Wandb(WandbLogger, RunLogger):
    """Weights & Biases, in the run's folder `wandb`; `wandb sync` uploads an offline run later.

    Args:
        project: of the run.
        entity: the user or team; null: the account's own.
        offline: write files alone, without an account or a network.
        tags: of the run.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        resumed: bool,
        *,
        project: str = "sunlab",
        entity: str | None = None,
        offline: bool = True,
        tags: list[str] | None = None,
    ):
        self._kept = RunId(inside(folder, "wandb"), resumed)
        try:
            super().__init__(
                name=name,
                save_dir=str(folder),
                version=self._kept.earlier,
                project=project,
                entity=entity,
                offline=offline,
                tags=tags,
                save_code=False,
            )
        except ModuleNotFoundError:
            raise missing("wandb") from None

    @rank_zero_only
    def log_config(self, tree: Mapping[str, Any]) -> None:
        self.log_hyperparams(dict(tree))
        self._kept.keep(str(self.experiment.id))

    @rank_zero_only
    def log_pictures(self, key: str, images: Tensor, step: int) -> None:
        self.log_image(key, list(images.float().cpu()), step)

    @rank_zero_only
    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        self.log_table(key, list(columns), [list(row) for row in rows], step=step)

    def close(self) -> None:
        if self._experiment is not None:  # the next run of this process is another one
            self._experiment.finish()
            self._experiment = None
