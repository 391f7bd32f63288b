"""The stages of the order "exact": epochs over counted shards, a stream's equal share of each, and a shuffle buffer of
places in shards, whose bytes are read when they leave it."""

import builtins
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from random import Random
from threading import Thread

from webdataset.filters import pipelinefilter

from sunlab.data.cursor import Cursor, Range
from sunlab.data.manifest import Shard
from sunlab.data.quarantine import Patience, Quarantine
from sunlab.data.remote import Remote, is_remote
from sunlab.data.sample import Bad, BadSample, Item
from sunlab.draws import keyed_seed
from sunlab.errors import DataError, SunlabError


class BufferOrder(Iterator[int]):
    """The positions 0 ... count - 1 in the order in which a shuffle buffer emits them, computed without data.

    The buffer is filled in order up to `size`, then one of its positions, drawn by `random`, leaves at a time.

    Attributes:
        pending: the positions in the buffer.
        front: the first position that has not entered it.
    """

    def __init__(self, count: int, size: int, random: Random):
        self.count, self.size, self.random = count, max(size, 1), random
        self.pending: list[int] = []
        self.front = 0

    def __next__(self) -> int:
        while self.front < self.count and len(self.pending) < self.size:
            self.pending.append(self.front)
            self.front += 1
        if not self.pending:
            raise StopIteration
        last, drawn = len(self.pending) - 1, self.random.randrange(len(self.pending))
        self.pending[drawn], self.pending[last] = self.pending[last], self.pending[drawn]
        return self.pending.pop()


def epochs(shards: Sequence[Shard], seed: int, range: Range) -> Iterator[Item]:
    """Epoch after epoch over all shards, each in an order of its own, keyed by (seed, epoch)."""
    for epoch in range.epochs():
        order, first = list(shards), 0
        Random(keyed_seed(seed, epoch, "shards")).shuffle(order)
        for shard in order:
            yield {"url": shard.url, "__epoch__": epoch, "__shard__": shard, "__first__": first}
            first += len(shard)


@pipelinefilter
def share(items: Iterator[Item], range: Range, shuffle: int, seed: int) -> Iterator[Item]:
    """A stream's range of each epoch: the places in each shard that are still to be read. Shards without any are left out.

    Args:
        items: shards.
        range: of positions.
        shuffle: samples in the buffer, whose order decides which places were read before a resume.
        seed: of that order.
    """
    start, stop = range[:2]
    for epoch, shards in groupby(items, key=lambda item: item["__epoch__"]):
        order = BufferOrder(range.length, shuffle, Random(keyed_seed(seed, epoch, "buffer", start, stop)))
        taken = range.skip if epoch == range.epoch else 0
        for _ in builtins.range(taken):
            next(order, None)
        pending, front, end = sorted(order.pending), order.front, 0
        for item in shards:
            base = item["__first__"] - start  # position in the range of the shard's first sample
            end = base + len(item["__shard__"])
            held = pending[bisect_left(pending, base) : bisect_left(pending, end)]
            places = [*held, *builtins.range(max(base, front, 0), min(end, range.length))]
            if places:
                yield {**item, "__places__": places, "__base__": base, "__order__": (order, taken)}
        if end < range.length:
            raise DataError(f"positions {start} ... {stop} were requested, the epoch has {end + start}")


@pipelinefilter
def open_places(items: Iterator[Item], remote: Remote) -> Iterator[Item]:
    """Shards -> the places of their samples, with the open archive; the next remote shard is fetched meanwhile."""
    item = next(items, None)
    while item is not None:
        following = next(items, None)
        if following is not None and is_remote(following["url"]):
            Thread(target=_fetch, args=(following["__shard__"], remote), daemon=True).start()
        shard, places = item["__shard__"], item["__places__"]
        numbers = [place - item["__base__"] for place in places]
        archive = shard.open(remote)
        about = {"__url__": shard.url, "__epoch__": item["__epoch__"], "__order__": item["__order__"]}
        for place, number in zip(places, numbers if shard.kept is None else shard.kept[numbers].tolist(), strict=True):
            yield {**about, "__place__": place, "__number__": number, "archive": archive}
        del archive
        item = following


def _fetch(shard: Shard, remote: Remote) -> None:
    with suppress(SunlabError):  # raised when the shard is opened
        remote.local(shard.url, shard.bytes)


def buffer(items: Iterator[Item]) -> Iterator[Item]:
    """The shuffle buffer. Each place gets the cursor after it (`__cursor__`): the epoch, and how many were emitted."""
    held: dict[int, Item] = {}
    for epoch, found in groupby(items, key=lambda item: item["__epoch__"]):
        for item in found:  # the first: the others are taken as the order needs them
            held[item["__place__"]] = item
            order, taken = item["__order__"]
            for emitted, place in enumerate(order, taken + 1):
                while place not in held:
                    following = next(found)  # noqa: B031
                    held[following["__place__"]] = following
                yield {**held.pop(place), "__cursor__": Cursor(epoch=epoch, offset=emitted)}


@pipelinefilter
def read(items: Iterator[Item], bad: Bad) -> Iterator[Item]:
    """Places -> samples' bytes by suffix, each compared with its digest where the shard has an index."""
    for item in items:
        try:
            raw = item.pop("archive").load(item["__number__"])
        except BadSample as error:
            bad(error)
        else:
            about = {name: item[name] for name in ("__url__", "__epoch__", "__number__", "__cursor__")}
            yield {"__key__": raw.key, **about, **raw.members}


class Replace(Patience):
    """In place of each bad sample the next good one (at the end of an epoch's range, its first), so that every range keeps
    its length. Its key is written "good (for bad)". The stages before report bad samples by calling this object.

    Args:
        quarantine: of bad samples.
        range: of positions.
        again: the good samples of an epoch's range from its beginning.
    """

    def __init__(self, quarantine: Quarantine, range: Range, again: Callable[[int], Iterator[Item]]):
        super().__init__(quarantine)
        self.range, self.again = range, again
        self.waiting: list[str] = []

    def __call__(self, bad: BadSample) -> None:
        super().__call__(bad)
        self.waiting.append(bad.key)

    def stage(self, items: Iterator[Item]) -> Iterator[Item]:
        """Put the next good sample in place of each bad one."""
        epoch, emitted = self.range.epoch, self.range.skip
        for item in items:
            cursor = item["__cursor__"]
            for ended in range(epoch, cursor.epoch):
                yield from self._at_the_end(ended, self.range.length - emitted)
                emitted = 0
            epoch = cursor.epoch
            yield from self._instead(item, cursor.offset - 1 - emitted)
            yield item
            emitted = cursor.offset
        for ended in self.range.epochs():
            if ended >= epoch and self.waiting:
                yield from self._at_the_end(ended, min(self.range.length - emitted, len(self.waiting)))
                emitted = 0

    def _at_the_end(self, epoch: int, missing: int) -> Iterator[Item]:
        if missing:
            good = next(self.again(epoch), None)
            if good is None:
                raise DataError(f"all of {self.range.length} samples in a row are bad, the last: {self.waiting[-1]}")
            end = Cursor(epoch=epoch, offset=self.range.length + 1)
            yield from self._instead({**good, "__cursor__": end}, missing)

    def _instead(self, item: Item, missing: int) -> Iterator[Item]:
        for offset in range(missing, 0, -1):
            if not self.waiting:
                raise DataError("a stage of data.source.stages drops samples, which needs order: stream")
            sample = replace(item["sample"], key=f"{item['sample'].key} (for {self.waiting.pop(0)})")
            cursor = item["__cursor__"]._replace(offset=item["__cursor__"].offset - offset)
            yield {**item, "sample": sample, "__cursor__": cursor}
