"""The contract of a callback is Lightning's own."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from registry import Registry


class Averaging(Callback, ABC):
    """A callback that keeps further weights of the trained parameters, which are drawn with and exported."""

    @abstractmethod
    def swap(self, module: LightningModule) -> None:
        """Put them into the module, and what was trained aside; a second call undoes it."""


@contextmanager
def averaged(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Inside, the module has the weights of the run's `Averaging` callback, if there is one."""
    averages = [callback for callback in trainer.callbacks if isinstance(callback, Averaging)]  # type: ignore[attr-defined]
    for average in averages:
        average.swap(module)
    try:
        yield
    finally:
        for average in averages:
            average.swap(module)


CALLBACKS: Registry[Callback] = Registry(
    "callback",
    base=Callback,
    entry_points="sunlab.callbacks",
    components=(
        "sunlab.callbacks.before_after",
        "sunlab.callbacks.ema",
        "sunlab.callbacks.loss_by_time",
        "sunlab.callbacks.sample_images",
        "sunlab.callbacks.throughput",
    ),
)
