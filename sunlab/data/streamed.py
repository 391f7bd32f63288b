"""Shards as an endless stream: the `webdataset.DataPipeline` of the order "stream"."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sunlab.data.cursor import Cursor, Tally
from sunlab.data.decode import Decoder
from sunlab.data.filters.base import Filter
from sunlab.data.manifest import Indexes, shard_name
from sunlab.data.pipeline import Inserted, Pipeline
from sunlab.data.prompts import PromptDraws
from sunlab.data.quarantine import Patience, Quarantine
from sunlab.data.remote import Remote
from sunlab.data.selection import Named
from sunlab.data.stages.archive import Group, Open, Tar, Verify
from sunlab.data.stages.order import Order, Split
from sunlab.data.stages.samples import batch as joined_by
from sunlab.data.stages.samples import decode, prompts, select
from sunlab.data.stages.window import Window


@dataclass(frozen=True)
class Streamed:
    """A stream over files, for all that reads one.

    Attributes:
        urls: of the shards.
        remote: where manifests and indexes are read from.
        cache: where remote shards are fetched to as a whole; None: they are read as they arrive.
        filters: with a name each.
        inserted: stages of the user.
        decoder: from bytes to samples.
        shuffle: samples in memory of each stream.
        shapes: of the aspect-ratio buckets; empty: none.
        quarantine: of bad samples; None: the first one stops the run.
        rows: for files that are no archives: the stage from files to samples, by what becomes of bad ones, the cursor where
            it begins, and a function that is called for each sample.
    """

    urls: Sequence[str]
    remote: Remote
    cache: Remote | None
    filters: Named
    inserted: Inserted
    decoder: Decoder
    shuffle: int
    shapes: Sequence[tuple[int, int]]
    quarantine: Quarantine | None
    rows: Callable[[Patience, Cursor, Callable[[], None]], Any] | None = None

    @cached_property
    def indexes(self) -> Indexes:
        return Indexes(self.remote, self.urls)

    @cached_property
    def name(self) -> Callable[[str], str]:
        """From a shard's URL to what stands before the keys of its samples."""
        return names_of(self.urls)

    def pipeline(
        self,
        *,
        seed: int,
        streams: int,
        stream: int | None,
        start: Cursor | None,
        draws: PromptDraws | None,
        together: int,
        batch: int | None,
        passes: int | None,
        tally: Tally | None,
        last: str | None,
    ) -> Pipeline:
        """As `Source.pipeline`."""
        start, tally, bad = start or Cursor(), tally or Tally(), Patience(self.quarantine)
        order = Order(self.urls, seed, start, passes)
        named: list[tuple[str, Any]] = [("shards", order), ("split", Split(len(self.urls), streams, stream))]
        if self.rows is not None:
            named.append(("rows", self.rows(bad, start, order.note)))
        else:
            named += self._archives(bad, start, tally, order)
        if self.filters:
            named.append(("select", select(self.filters, tally)))
        window = Window(self.shuffle, seed=seed, stream=stream, start=start, shapes=self.shapes, together=together)
        named += [("shuffle", window), ("decode", decode(self.decoder, self.name, seed, bad))]
        if draws is not None:
            named.append(("prompts", prompts(draws)))
            if batch is not None:
                named.append(("batch", joined_by(batch)))
        return Pipeline(named, self.inserted, last=last)

    def _archives(self, bad: Patience, start: Cursor, tally: Tally, order: Order) -> list[tuple[str, Any]]:
        return [
            ("open", Open(bad, self.cache, lenient=self.quarantine is not None)),
            ("tar", Tar(tally, regions=self.indexes.some)),
            ("group", Group(bad, start, order.note)),
            ("verify", Verify(self.indexes, bad)),
        ]

    def identity(self) -> tuple[object, ...]:
        """Of the shards' names and of what decides on the order; not of places, so that data may move."""
        inserted = [(after, name, sorted(vars(stage).items(), key=str)) for after, name, stage in self.inserted]
        filters = [(name, *_settings(one)) for name, one in self.filters]
        return [shard_name(url) for url in self.urls], self.shapes, self.shuffle, filters, inserted


def names_of(urls: Sequence[str]) -> Callable[[str], str]:
    """A shard's name by its URL: folder and file, or the whole URL where two shards share that."""
    distinct = len({shard_name(url) for url in urls}) == len(set(urls))
    return shard_name if distinct else str


def _settings(one: Filter) -> list[tuple[str, Any]]:
    return sorted(vars(one).items(), key=str)
