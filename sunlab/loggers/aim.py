"""Aim."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sunlab.loggers.base import LOGGERS, RunId, RunLogger, arrays, inside, markdown, missing


@LOGGERS.register("aim")
class Aim(RunLogger):
    """Aim, in the run's folder `aim`; `aim up --repo runs/NAME/aim` opens its page.

    Args:
        experiment: that holds the run.
        repo: another folder, shared by several runs, or a server's address `aim://host:port`; null: the run's own.
    """

    def __init__(self, folder: Path, name: str, resumed: bool, *, experiment: str = "sunlab", repo: str | None = None):
        super().__init__()
        place = inside(folder.resolve(), "aim")
        self._kept = RunId(place, resumed)
        self._name, self._experiment, self._repo = name, experiment, repo or str(place)
        self._run: Any = None
        try:
            import aim
        except ModuleNotFoundError:
            raise missing("aim", "aim") from None
        self._aim: Any = aim

    @property
    def name(self) -> str:
        return self._experiment

    @property
    def version(self) -> str | None:
        return self._kept.earlier if self._run is None else str(self._run.hash)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `aim.Run`. `log_system_params` would record the environment's values, keys among them."""
        if self._run is None:
            self._run = self._aim.Run(
                self._kept.earlier,
                repo=self._repo,
                experiment=self._experiment,
                force_resume=self._kept.earlier is not None,
                system_tracking_interval=None,
                log_system_params=False,
                capture_terminal_logs=False,
            )
            self._run.name = self._name
        return self._run

    @rank_zero_only
    def log_config(self, tree: Mapping[str, Any]) -> None:
        self.experiment.set("config", dict(tree), strict=False)
        self._kept.keep(str(self.experiment.hash))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The module's; the configuration has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.track(dict(metrics), step=step)

    @rank_zero_only
    def log_pictures(self, key: str, images: Tensor, step: int) -> None:
        self.experiment.track([self._aim.Image(each) for each in arrays(images)], name=key, step=step)

    @rank_zero_only
    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        self.experiment.track(self._aim.Text(markdown(columns, rows)), name=f"{key}_table", step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None
