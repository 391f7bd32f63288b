"""The order of shards in a pass, and each stream's share of it."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count
from random import Random

import numpy as np
from webdataset.filters import pipelinefilter

from sunlab.data.cursor import Cursor, process
from sunlab.data.sample import Item
from sunlab.draws import keyed_seed
from sunlab.errors import DataError

PASSES = 20  # without a sample that end a stream: in each it reads other shards


class Order:
    """Pass after pass over all shards, each in an order of its own, keyed by (seed, pass).

    Args:
        urls: of the shards.
        seed: of the order.
        start: begin with this shard of this pass.
        passes: None: without end.
    """

    def __init__(self, urls: Sequence[str], seed: int, start: Cursor, passes: int | None = None):
        self.urls, self.seed, self.start, self.passes = urls, seed, start, passes
        self.found = 0  # samples in the archives, counted by `note`

    def note(self) -> None:
        self.found += 1

    def __call__(self) -> Iterator[Item]:
        first = self.start.position
        for epoch in count(self.start.epoch) if self.passes is None else range(self.start.epoch, self.passes):
            if epoch > self.start.epoch + PASSES and not self.found:
                raise DataError(
                    f"a stream found no sample in {PASSES} passes over its share of {len(self.urls)} shards "
                    f"({self.urls[0]}, ...); lower data.streams, or give more shards"
                )
            order = permutation(len(self.urls), self.seed, epoch)
            for position in range(first, len(order)):
                yield {"url": self.urls[order[position]], "__epoch__": epoch, "__position__": position}
            first = 0


@pipelinefilter
def split(items: Iterator[Item], shards: int, streams: int, stream: int | None) -> Iterator[Item]:
    """One stream's share: every `streams`-th shard of the order; where there are fewer shards than streams, a share of the
    samples of one shard.

    Args:
        items: the shards of each pass.
        shards: in a pass.
        streams: of the training, over all ranks and dataloader workers.
        stream: which one; None: that of this process, as webdataset splits by node and worker.
    """
    if stream is None:
        stream, streams = process()
    sharers = len(range(stream % shards, streams, shards))
    for item in items:
        if shards >= streams and item["__position__"] % streams == stream:
            yield item
        elif shards < streams and item["__position__"] == stream % shards:
            yield {**item, "__part__": (stream // shards, sharers)}


@lru_cache(maxsize=2)
def permutation(shards: int, seed: int, epoch: int) -> np.ndarray:
    """(shards,) int32: an order of the shards. Streams of one process share it."""
    order = list(range(shards))
    Random(keyed_seed(seed, epoch, "shards")).shuffle(order)
    return np.array(order, np.int32)
