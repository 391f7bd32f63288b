"""The contract of a stage."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from registry import Registry
from sunlab.data.opened import BadSample

Item = dict[str, Any]
Bad = Callable[[BadSample], None]  # what becomes of a bad sample: raised, or written down and left out


class Stage(ABC):
    """One step of a data pipeline.

    Items are dictionaries as in webdataset: before the stage `decode`, a sample's bytes by suffix beside `__key__` and
    `__url__`; after it, a `Sample` under `sample`. Keys that begin with two underscores must be handed on as they are.

    Resuming reads a part of the stream again, so a stage must be a function of its items: it may drop or change them, keeps
    their order, and holds none back.
    """

    @abstractmethod
    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items that the next stage sees."""


STAGES: Registry[Stage] = Registry(
    "stage", base=Stage, entry_points="sunlab.stages", components=("sunlab.data.stages.subsample",)
)
