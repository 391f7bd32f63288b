"""Files as an endless stream: the `webdataset.DataPipeline` of the order "stream"."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from sunlab.data.base import Source
from sunlab.data.cursor import Cursor, Request
from sunlab.data.decode import Decoder, facts_of, image_size
from sunlab.data.filters.base import Dropped, Named
from sunlab.data.framing import nearest
from sunlab.data.manifest import Manifests, shard_name
from sunlab.data.pipeline import Inserted, Pipeline
from sunlab.data.quarantine import Patience, Quarantine
from sunlab.data.remote import Remote
from sunlab.data.sample import Bad, BadSample, Item, Raw, Sample, bad_sample
from sunlab.data.stages.archive import Group, Open, Tar, verify
from sunlab.data.stages.order import Order, split
from sunlab.data.stages.samples import decode, finished, raw_of, select
from sunlab.data.stages.window import Window
from sunlab.draws import keyed_seed

SHARDS, SAMPLES = 8, 64  # whose shapes are looked at before training: shards, and samples of each


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
    rows: Callable[[Bad, Cursor, Callable[[], None]], Any] | None = None

    @cached_property
    def indexed(self) -> bool:
        """Whether there are indexes beside the first shard; else no shard is looked up."""
        beside = {} if self.manifests is None else self.manifests.folder(self.urls[0])
        return any(entry.get("index") for entry in beside.values())

    @cached_property
    def mix(self) -> Sequence[int]:
        """How many of the first samples of a few shards each shape fits best: in these proportions the shapes come. Bad
        samples, and those that the filters drop, do not count; where all are such, the shapes are equally frequent."""
        if not self.shapes:
            return ()
        counts, dropped = [0] * len(self.shapes), Dropped()
        for url in self.urls[:: -(-len(self.urls) // SHARDS)]:
            for raw, kept in self.look(url, self.filters, dropped, SAMPLES):
                size = image_size(raw.members)
                if size is not None and kept:
                    counts[nearest(*size, self.shapes)] += 1
        return tuple(counts) if any(counts) else (1,) * len(counts)

    def look(self, url: str, filters: Named, dropped: Dropped, samples: int) -> Iterator[tuple[Raw, bool]]:
        """The first samples of a shard, and whether the filters keep each. Bad ones are counted and left out."""

        def bad(error: BadSample) -> None:
            dropped.bad += 1

        picture = any(one.picture for _, one in filters)
        one = replace(self, urls=[url], filters=(), inserted=(), shapes=())
        for item in islice(one.pipeline(Request(stream=0, passes=1, bad=bad, last="verify")), samples):
            raw = raw_of(item)
            yield raw, dropped.look(filters, facts_of(raw, picture=picture), url)

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
        mine = split(len(self.urls), request.streams, request.stream)
        named: list[tuple[str, Any]] = [("shards", order), ("split", mine)]
        if self.rows is not None:
            named.append(("rows", self.rows(bad, start, order.note)))
        else:
            named += [
                ("open", Open(bad, self.cache, lenient=bad.lenient)),
                ("tar", Tar(request.tally, regions=self.indexed)),
                ("group", Group(bad, start, order.note)),
                ("verify", verify(self.manifests.index if self.indexed and self.manifests else None, bad)),
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

    def quarantine_in(self, folder: Path) -> None:
        """Record bad samples in a run's folder."""
        if self.quarantine is not None:
            self.quarantine.path = folder / self.quarantine.path.name

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


class Rows:
    """Files -> a sample a row: the column of the prompt as `txt`, the others as `json`.

    Args:
        read: the rows of a file, by its URL.
        caption: column of the prompt.
        bad: called with each row without one.
        start: the first row that is wanted.
        found: called for each row.
        picture: the bytes of a row's picture; None: there are no pictures.
        image: column of the picture, which is left out of the json.
    """

    def __init__(
        self,
        read: Callable[[str], Iterator[Any]],
        caption: str,
        bad: Bad,
        start: Cursor,
        found: Callable[[], None],
        picture: Callable[[Any], bytes] | None = None,
        image: str | None = None,
    ):
        self.read, self.caption, self.bad, self.start, self.found = read, caption, bad, start, found
        self.picture, self.image = picture, image

    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            part, parts = item.get("__part__", (0, 1))
            about = {key: value for key, value in item.items() if key.startswith("__")}
            for number, row in enumerate(self.read(item["url"])):
                if number % parts != part or (item["__epoch__"], item["__position__"], number) < self.start[:3]:
                    continue
                self.found()
                key, text = f"{number:09d}", row.get(self.caption) if isinstance(row, dict) else None
                if not isinstance(text, str):
                    detail = f"no text in the column {self.caption!r}"
                    self.bad(bad_sample(item["url"], key, "missing caption", detail))
                    continue
                record = {k: v for k, v in row.items() if isinstance(v, str | int | float | list) and k != self.image}
                members = {"txt": text.encode(), "json": json.dumps(record, default=str).encode()}
                if self.picture is not None:
                    members["png"] = self.picture(row.get(self.image))  # its bytes tell the format
                yield {"__key__": key, "__url__": item["url"], **about, "__number__": number, **members}


class Streamed(Source):
    """A source that is always read as a stream. Its samples are counted if `len` or `read` is called; training calls
    neither."""

    order = "stream"

    stream: Stream
    columns: object  # by which its rows are read

    def identity(self) -> str:
        return short_hash((self.stream.identity(), self.columns))

    def pipeline(self, **given: Any) -> Pipeline:
        return self.stream.pipeline(Request(**given))

    def quarantine_in(self, folder: Path) -> None:
        self.stream.quarantine_in(folder)

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
