"""The data pipeline: a `webdataset.DataPipeline` of named stages, and the stages that a configuration inserts."""

import inspect
from collections.abc import Sequence
from typing import Any

from webdataset.pipeline import DataPipeline

from sunlab.data.stages.base import STAGES, Stage
from sunlab.errors import ConfigError

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
    function = getattr(stage, "summary", None) or inspect.getdoc(stage if inspect.isfunction(stage) else type(stage)) or ""
    return " ".join(function.partition("\n\n")[0].split())
