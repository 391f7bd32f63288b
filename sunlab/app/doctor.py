"""Look at data before a training does: what decodes, and what filters would drop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunlab.config.load import load_config
from sunlab.data.base import SOURCES
from sunlab.data.doctor import Report, examine, examine_filters
from sunlab.data.filters.base import Dropped, Named
from sunlab.data.pipeline import build_filters
from sunlab.data.shards import Shards
from sunlab.errors import ConfigError


@dataclass(frozen=True)
class Diagnosis:
    """What was seen.

    Attributes:
        source: the shards.
        report: of the samples that were decoded.
        filters: by name.
        dropped: of the samples that were filtered; None without filters.
    """

    source: Shards
    report: Report
    filters: Named
    dropped: Dropped | None

    def problem(self) -> str | None:
        """What would stop a training, or None."""
        if self.dropped is not None and not self.dropped.kept:
            return f"the filters drop every sample that was looked at:\n{self.dropped.table(self.filters)}"
        if self.report.stopped:
            return f"reading stopped at what would stop a training: {self.report.stopped}"
        return None if self.report.ok else f"nothing could be decoded of {', '.join(self.source.urls)}"


def examine_data(
    shards: Sequence[str] = (),
    *,
    configs: Sequence[str | Path] = (),
    filters: Sequence[str | dict[str, Any]] = (),
    samples: int = 200,
    filtered: int = 10_000,
    every: bool = False,
) -> Diagnosis:
    """Decode some samples of shards, past the bad ones, and filter some. Of shards that no manifest lists only a few are
    read.

    Args:
        shards: tar files, or patterns of them.
        configs: YAML files whose `data.source` is looked at instead.
        filters: in place of the source's own, as in a configuration.
        samples: how many to decode.
        filtered: how many to filter.
        every: count the samples of all shards first, and look for them in all.

    Raises:
        ConfigError: both or neither of `shards` and `configs`, or a source that reads no shards.
        DataError: no such shards.
    """
    kind, given = _source_of(shards, configs, filters)
    named = build_filters(given.pop("filters", None))
    source = kind(**{**given, "on_error": "quarantine", **({"order": "exact"} if every else {})})
    report = examine(source, samples)
    return Diagnosis(source, report, named, examine_filters(source, named, filtered) if named else None)


def plan_of(
    shards: Sequence[str] = (), *, configs: Sequence[str | Path] = (), filters: Sequence[str | dict[str, Any]] = ()
) -> Shards:
    """The source whose pipeline training would read; no shard is opened. Arguments as for `examine_data`."""
    kind, given = _source_of(shards, configs, filters)
    return kind(**given)


def _source_of(
    shards: Sequence[str], configs: Sequence[str | Path], filters: Sequence[str | dict[str, Any]]
) -> tuple[Callable[..., Shards], dict[str, Any]]:
    """The class of a source that reads shards, and its parameters."""
    if bool(shards) == bool(configs):
        raise ConfigError("doctor data: name shards, or a configuration with --config")
    given: Any = {"name": "shards", "urls": list(shards)}
    spec = SOURCES.check(load_config(configs).config.data.source if configs else given, key="data.source")
    kind: Any = SOURCES.get(spec.name).factory
    if not kind.reads_shards:
        raise ConfigError(f"data.source: {spec.name} reads no shards; doctor data looks at shards alone")
    return kind, {**spec.parameters, **({"filters": list(filters)} if filters else {})}
