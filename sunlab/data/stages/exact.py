"""The stages of the order "exact": epochs over counted shards, a stream's equal share of each, and a shuffle buffer of the
places in shards, which are opened and read as they leave it."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, islice
from random import Random
from threading import Thread

from webdataset.filters import pipelinefilter

from sunlab.data.archive import Archive
from sunlab.data.cursor import Cursor, Range
from sunlab.data.manifest import Shard
from sunlab.data.quarantine import Patience, Quarantine
from sunlab.data.remote import Remote, is_remote
from sunlab.data.sample import Bad, BadSample, Item
from sunlab.draws import keyed_seed
from sunlab.errors import DataError, SunlabError


def epochs(shards: Sequence[Shard], seed: int, range: Range) -> Iterator[Item]:
    """Epoch after epoch over all shards, each in an order of its own, keyed by (seed, epoch)."""
    for epoch in range.epochs():
        order = list(shards)
        Random(keyed_seed(seed, epoch, "shards")).shuffle(order)
        yield {"__epoch__": epoch, "__shards__": order}


@pipelinefilter
def share(items: Iterator[Item], range: Range) -> Iterator[Item]:
    """A stream's range of each epoch: where in it each shard ends (`__ends__`)."""
    for item in items:
        ends = [end - range.start for end in accumulate(map(len, item["__shards__"]))]
        if ends[-1] < range.length:
            raise DataError(
                f"positions {range.start} ... {range.stop} were requested, the epoch has {ends[-1] + range.start}"
            )
        yield {**item, "__ends__": ends}


@pipelinefilter
def buffer(items: Iterator[Item], range: Range, shuffle: int, seed: int) -> Iterator[Item]:
    """The places of samples in the order in which a shuffle buffer emits them, each with its shard, the shard after that,
    whether it is the shard's `__last__`, and the cursor after it: the epoch, and how many were emitted.

    Args:
        items: epochs.
        range: of positions.
        shuffle: samples in the buffer.
        seed: of the order.
    """
    for item in items:
        epoch, shards, ends, left = item["__epoch__"], item["__shards__"], item["__ends__"], dict[int, int]()
        random = Random(keyed_seed(seed, epoch, "buffer", range.start, range.stop))
        for emitted, place in enumerate(buffered(range.length, shuffle, random), 1):
            index = bisect_right(ends, place)
            shard, end = shards[index], ends[index]
            first = end - len(shard)
            left[index] = left.get(index, min(end, range.length) - max(first, 0)) - 1
            if epoch > range.epoch or emitted > range.skip:
                yield {
                    "__url__": shard.url,
                    "__epoch__": epoch,
                    "__number__": place - first if shard.kept is None else int(shard.kept[place - first]),
                    "__cursor__": Cursor(epoch=epoch, offset=emitted),
                    "__shard__": shard,
                    "__next__": shards[index + 1] if end < range.length else None,
                    "__last__": not left[index],
                }


def buffered(count: int, size: int, random: Random) -> Iterator[int]:
    """The positions 0 ... count - 1 in the order of a shuffle buffer: it is filled in order up to `size`, then one of its
    positions, drawn by `random`, leaves at a time."""
    entering = iter(range(count))
    pending = list(islice(entering, max(size, 1)))
    while pending:
        drawn = random.randrange(len(pending))
        pending[drawn], pending[-1] = pending[-1], pending[drawn]
        yield pending.pop()
        pending += islice(entering, 1)


@pipelinefilter
def open_shards(items: Iterator[Item], remote: Remote) -> Iterator[Item]:
    """Places -> places with the open archive; the next remote shard is fetched meanwhile."""
    archives: dict[str, Archive] = {}
    for item in items:
        shard, following = item["__shard__"], item["__next__"]
        if shard.url not in archives:
            if following is not None and is_remote(following.url):
                Thread(target=_fetch, args=(following, remote), daemon=True).start()
            archives[shard.url] = shard.open(remote)
        yield {**item, "archive": archives.pop(shard.url) if item["__last__"] else archives[shard.url]}


def _fetch(shard: Shard, remote: Remote) -> None:
    with suppress(SunlabError):  # raised when the shard is opened
        remote.local(shard.url, shard.bytes)


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
