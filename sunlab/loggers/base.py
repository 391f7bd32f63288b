"""The contract of a logger: Lightning's, with pictures, tables and the run's configuration."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from registry import Registry
from sunlab.errors import ConfigError


class RunLogger(Logger):
    """Records a run. Built with the run's folder, its name, and whether it is resumed; writes below the folder alone.

    The methods are called on the first rank. No value of the environment is handed to them.
    """

    @abstractmethod
    def log_config(self, tree: Mapping[str, Any]) -> None:
        """The resolved configuration, plain values."""

    @abstractmethod
    def log_pictures(self, key: str, images: Tensor, step: int) -> None:
        """Args: images, (B, 3, H, W) in [0, 1]."""

    @abstractmethod
    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        """A table of texts, `rows` by `columns`."""

    def close(self) -> None:
        """Called once, after the run's last record."""


LOGGERS: Registry[RunLogger] = Registry(
    "logger",
    base=RunLogger,
    entry_points="sunlab.loggers",
    components=("sunlab.loggers.curve", "sunlab.loggers.tensorboard", "sunlab.loggers.wandb", "sunlab.loggers.mlflow"),
)


def loggers_of(trainer: Trainer) -> list[RunLogger]:
    """The trainer's loggers that take pictures and tables."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]


def missing(name: str, package: str) -> ConfigError:
    """The error for a logger whose package is not installed."""
    return ConfigError(f"loggers: {name} needs the package {package}: pip install 'sunlab[{name}]'")


def inside(folder: Path, name: str) -> Path:
    """A folder of the logger's own in the run's, made where there is none."""
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    return place
