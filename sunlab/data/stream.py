"""Files as an endless stream: the `webdataset.DataPipeline` of the order "stream"."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from sunlab.data.base import Source
from sunlab.data.buckets import mixture
from sunlab.data.cursor import Cursor, Request
from sunlab.data.decode import Decoder
from sunlab.data.filters.base import Named
from sunlab.data.manifest import Manifests, shard_name
from sunlab.data.pipeline import Inserted, Pipeline
from sunlab.data.quarantine import Patience, Quarantine
from sunlab.data.remote import Remote
from sunlab.data.sample import Bad, Sample
from sunlab.data.stages.archive import Group, Open, Tar, Verify
from sunlab.data.stages.order import Order, Split
from sunlab.data.stages.samples import decode, finished, select
from sunlab.data.stages.window import Window
from sunlab.draws import keyed_seed

Rows = Callable[[Bad, Cursor, Callable[[], None]], Any]


@dataclass(frozen=True)
class Stream:
    """A stream over files, for all sources that read one.

    Attributes:
        urls: of the shards.
        decoder: from bytes to samples.
        shuffle: samples in memory of each stream.
        filters: with a name each.
        inserted: stages of the user.
        manifests: of the shards; None: none are looked up.
        cache: where remote shards are fetched to as a whole; None: they are read as they arrive.
        shapes: of the aspect-ratio buckets; empty: none.
        quarantine: of bad samples; None: the first one ends the run.
        rows: for files that are no archives: makes the stage from files to samples, from what is called with bad samples,
            the cursor where the stage begins, and a function that is called for each sample.
    """

    urls: Sequence[str]
    decoder: Decoder
    shuffle: int
    filters: Named = ()
    inserted: Inserted = ()
    manifests: Manifests | None = None
    cache: Remote | None = None
    shapes: Sequence[tuple[int, int]] = ()
    quarantine: Quarantine | None = None
    rows: Rows | None = None

    @cached_property
    def indexed(self) -> bool:
        """Whether there are indexes beside the first shard; else no shard is looked up."""
        beside = {} if self.manifests is None else self.manifests.folder(self.urls[0])
        return any(entry.get("index") for entry in beside.values())

    @cached_property
    def mix(self) -> Sequence[int]:
        """How frequent each shape is."""
        return mixture(self) if self.shapes else ()

    @cached_property
    def names(self) -> list[str]:
        """Of the shards."""
        return [shard_name(url) for url in self.urls]

    @cached_property
    def distinct(self) -> bool:
        """Whether shards have distinct names: folder and file. Else keys begin with the whole URL."""
        return len(set(self.names)) == len(set(self.urls))

    def prefix(self, url: str) -> str:
        """What the keys of a shard's samples begin with."""
        return f"{shard_name(url) if self.distinct else url}/"

    def pipeline(self, request: Request) -> Pipeline:
        bad, start = Patience(self.quarantine, request.bad), request.start
        order = Order(self.urls, request.seed, start, request.passes)
        split = Split(len(self.urls), request.streams, request.stream)
        named: list[tuple[str, Any]] = [("shards", order), ("split", split)]
        if self.rows is not None:
            named.append(("rows", self.rows(bad, start, order.note)))
        else:
            named += [
                ("open", Open(bad, self.cache, lenient=bad.lenient)),
                ("tar", Tar(request.tally, regions=self.indexed)),
                ("group", Group(bad, start, order.note)),
                ("verify", Verify(self.manifests.index if self.indexed and self.manifests else None, bad)),
            ]
        if self.filters:
            named.append(("select", select(self.filters, request.tally)))
        window = Window(
            self.shuffle,
            seed=request.seed,
            stream=request.stream,
            start=start,
            shapes=self.shapes,
            mix=self.mix,
            together=request.together,
        )
        named += [
            ("shuffle", window),
            ("decode", decode(self.decoder, self.prefix, request.seed, bad, replacing=bool(self.shapes))),
        ]
        return Pipeline([*named, *finished(request, passes=True)], self.inserted, last=request.last)

    def identity(self) -> tuple[object, ...]:
        """Of the shards' names and of what decides on the order; not of places, so that data may move."""
        inserted = [(after, name, settings(stage)) for after, name, stage in self.inserted]
        filters = [(name, *settings(one)) for name, one in self.filters]
        return (
            self.names,
            self.shapes and (self.shapes, self.mix),
            self.shuffle,
            filters,
            inserted,
        )


class Streamed(Source):
    """A source that is always read as a stream. Its samples are counted if `len` or `read` is called; training calls
    neither."""

    order = "stream"

    @property
    @abstractmethod
    def stream(self) -> Stream:
        """How it is read."""

    def pipeline(self, **given: Any) -> Pipeline:
        return self.stream.pipeline(Request(**given))

    def quarantine_in(self, folder: Path) -> None:
        if self.stream.quarantine is not None:
            self.stream.quarantine.path = folder / self.stream.quarantine.path.name

    def __len__(self) -> int:
        return len(self._all)

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        order = list(range(len(self)))
        Random(keyed_seed(seed, epoch, "prompts")).shuffle(order)
        yield from (self._all[index] for index in order[start + skip : stop])

    def prompts(self, limit: int) -> Sequence[str]:
        return [item["sample"].prompt for item in islice(self.pipeline(stream=0, passes=1), limit)]

    @cached_property
    def _all(self) -> list[Sample]:
        return [item["sample"] for item in self.pipeline(stream=0, passes=1)]


def settings(component: object) -> list[tuple[str, Any]]:
    """The attributes of a component by name."""
    return sorted(vars(component).items(), key=str)


def short_hash(*told: object) -> str:
    return blake2b(repr(told).encode(), digest_size=8).hexdigest()
