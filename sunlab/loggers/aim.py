"""Aim."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sunlab.loggers.base import LOGGERS, arrays, inside, markdown, missing
from sunlab.loggers.service import ServiceLogger


@LOGGERS.register("aim")
class Aim(ServiceLogger):
    """Aim, in the run's folder `aim`; `aim up --repo runs/NAME/aim` opens its page.

    Args:
        experiment: that holds the run.
        repo: another folder, shared by several runs, or a server's address `aim://host:port`; null: the run's own.
    """

    def __init__(self, folder: Path, name: str, resumed: bool, *, experiment: str = "sunlab", repo: str | None = None):
        place = inside(folder.resolve(), "aim")
        super().__init__(place, resumed, experiment)
        self._name, self._repo = name, repo or str(place)
        try:
            import aim
        except ModuleNotFoundError:
            raise missing("aim") from None
        self._aim: Any = aim

    def begin(self, earlier: str | None) -> Any:
        """An `aim.Run`. `log_system_params` would record the environment's values, keys among them."""
        run = self._aim.Run(
            earlier,
            repo=self._repo,
            experiment=self._project,
            force_resume=earlier is not None,
            system_tracking_interval=None,
            log_system_params=False,
            capture_terminal_logs=False,
        )
        run.name = self._name
        return run

    def identify(self, run: Any) -> str:
        return str(run.hash)

    def end(self, run: Any) -> None:
        run.close()

    @rank_zero_only
    def log_config(self, tree: Mapping[str, Any]) -> None:
        self.experiment.set("config", dict(tree), strict=False)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.track(dict(metrics), step=step)

    @rank_zero_only
    def log_pictures(self, key: str, images: Tensor, step: int) -> None:
        self.experiment.track([self._aim.Image(each) for each in arrays(images)], name=key, step=step)

    @rank_zero_only
    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        self.experiment.track(self._aim.Text(markdown(columns, rows)), name=f"{key}_table", step=step)
