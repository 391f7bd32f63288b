"""The contract of a logger: Lightning's, with pictures, tables and the run's configuration."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import Logger
from numpy import uint8
from numpy.typing import NDArray
from torch import Tensor

from registry import Registry
from sunlab.errors import ConfigError
from sunlab.files import read_text, write_text


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
    components=(
        "sunlab.loggers.curve",
        "sunlab.loggers.tensorboard",
        "sunlab.loggers.wandb",
        "sunlab.loggers.mlflow",
        "sunlab.loggers.trackio",
        "sunlab.loggers.aim",
    ),
)


def loggers_of(trainer: Trainer) -> list[RunLogger]:
    """The trainer's loggers that take pictures and tables."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]


def missing(name: str) -> ConfigError:
    """The error for a logger whose package, of the same name, is not installed."""
    return ConfigError(f"loggers: {name} needs the package {name}: pip install 'sunlab[{name}]'")


def inside(folder: Path, name: str) -> Path:
    """A folder of the logger's own in the run's, made where there is none."""
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    return place


class RunId:
    """The id of a run at a service, kept in a file of the logger's folder, so that a resumed run continues there.

    Attributes:
        earlier: the id of the run that is resumed; None if the run is new.
    """

    def __init__(self, folder: Path, resumed: bool):
        self._file = folder / "run_id"
        self.earlier = read_text(self._file).strip() if resumed and self._file.is_file() else None

    def keep(self, value: str) -> None:
        """Write the id that the service knows the run by. Call it on the first rank."""
        write_text(self._file, f"{value}\n")


def arrays(images: Tensor) -> list[NDArray[uint8]]:
    """Pictures (B, 3, H, W) in [0, 1] as arrays (H, W, 3)."""
    return [(each.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy() for each in images]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *rows])
