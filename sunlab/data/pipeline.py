"""The data pipeline: a `webdataset.DataPipeline` of named stages, and the stages that a configuration inserts."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from webdataset.pipeline import DataPipeline

from registry import Registry
from sunlab.data.filters.base import FILTERS, Filter
from sunlab.data.sample import Item
from sunlab.draws import keyed_seed
from sunlab.errors import ConfigError


class Stage(ABC):
    """One step of a data pipeline.

    Items are dictionaries as in webdataset: before the stage `decode`, a sample's bytes by suffix beside `__key__` and
    `__url__`; after it, a `Sample` under `sample`. Keys that begin with two underscores must be kept as they are.

    Resuming reads a part of the stream again, so a stage must be a function of its items: it may change them, and drop them
    in the order "stream", keeps their order, and holds none back.
    """

    @abstractmethod
    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items that the next stage sees."""


STAGES: Registry[Stage] = Registry("stage", base=Stage, entry_points="sunlab.stages", components=("sunlab.data.pipeline",))


@STAGES.register("subsample")
class Subsample(Stage):
    """Keeps a share of the samples, the same ones in every pass.

    Args:
        share: of the samples that are kept, above 0 and at most 1.
        seed: another one keeps others.
    """

    def __init__(self, *, share: float, seed: int = 0):
        if not 0 < share <= 1:
            raise ConfigError(f"share of the stage subsample is {share}: give a number above 0 and at most 1")
        self.share, self.seed = share, seed

    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            if keyed_seed(self.seed, "subsample", item["__key__"]) < self.share * 2**63:
                yield item


Named = Sequence[tuple[str, Any]]  # stages with their names
Inserted = Sequence[tuple[str, str, Stage]]  # the name of the stage that each follows, its own name, and the stage


class Pipeline(DataPipeline):
    """An ordinary `webdataset.DataPipeline` that knows its stages' names.

    Args:
        stages: with a name each, in their order; the first takes no items.
        inserted: further ones: the name of the stage that each follows, its own name, and the stage.
        last: leave out what follows this stage.
    """

    def __init__(self, stages: Named, inserted: Inserted = (), *, last: str | None = None):
        named = list(stages)
        for anchor, name, stage in inserted:
            names = [known for known, _ in named]
            if anchor not in names:
                raise ConfigError(
                    f"data.source.stages: {name} comes after {anchor!r}, which is no stage; there are {', '.join(names)}"
                )
            named.insert(_last(named, anchor), (name, stage))
        if last is not None:
            named = named[: _last(named, last)]
        self.names = [name for name, _ in named]
        super().__init__(*(stage for _, stage in named))

    def plan(self) -> list[tuple[str, str]]:
        """The name of each stage, and what it does."""
        return [(name, _summary(stage)) for name, stage in zip(self.names, self.pipeline, strict=True)]


def build_filters(requests: Sequence[str | dict[str, Any]] | None) -> list[tuple[str, Filter]]:
    """The filters of a configuration, each with a name for tables: the component's, with its field where it has one."""
    built = []
    for place, one in enumerate(requests or []):
        name = one if isinstance(one, str) else " ".join(str(one[key]) for key in ("name", "field") if key in one)
        built.append((name, FILTERS.build(one, key=f"data.source.filters.{place}")))
    return built


def build_stages(requests: Sequence[dict[str, Any]] | None) -> Inserted:
    """The stages that a configuration inserts: `{name: subsample, after: select, share: 0.5}`.

    Returns:
        The name of the stage that each follows, its own name, and the stage.

    Raises:
        ConfigError: a request without `after`, or that its stage refuses.
    """
    built = []
    for number, request in enumerate(requests or []):
        key = f"data.source.stages.{number}"
        if not isinstance(request, dict) or not isinstance(request.get("after"), str):
            raise ConfigError(f"{key}: give a name, its parameters, and `after`: the stage that it follows, such as select")
        rest = {name: value for name, value in request.items() if name != "after"}
        built.append((request["after"], str(rest.get("name")), STAGES.build(rest, key=key)))
    return built


def _last(named: Named, anchor: str) -> int:
    """Where a stage after `anchor` goes: behind those that were inserted there before."""
    place = next(index for index, (name, _) in enumerate(named) if name == anchor) + 1
    while place < len(named) and isinstance(named[place][1], Stage):
        place += 1
    return place


def _summary(stage: Any) -> str:
    function = getattr(stage, "func", getattr(stage, "f", stage))  # of a partial, or one of webdataset's own
    told = getattr(stage, "summary", None) or inspect.getdoc(function if inspect.isroutine(function) else type(function))
    return " ".join((told or "").partition("\n\n")[0].split())
