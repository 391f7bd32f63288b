"""A stream's equal share of each epoch of counted samples, and the stages over a source that only has `read`."""

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from webdataset.utils import pytorch_worker_info

from sunlab.data.cursor import Cursor, Request
from sunlab.data.sample import Item

if TYPE_CHECKING:
    from sunlab.data.base import Source


class Range(NamedTuple):
    """The positions start ... stop - 1 of each epoch's order; of the first epoch without the `skip` first samples.

    Attributes:
        start, stop: positions.
        epoch: the first epoch.
        skip: samples, in the range's own shuffled order.
        last: the epoch before which to end; None: without end.
    """

    start: int
    stop: int
    epoch: int = 0
    skip: int = 0
    last: int | None = None

    @classmethod
    def of(cls, request: Request, samples: int) -> "Range":
        """Stream v of V takes the v-th of V equal, contiguous ranges, each a multiple of `together`."""
        stream, streams = (request.stream, request.streams) if request.stream is not None else process()
        length = samples // (streams * request.together) * request.together
        return cls(stream * length, (stream + 1) * length, request.start.epoch, request.start.offset, request.passes)

    @property
    def length(self) -> int:
        return self.stop - self.start

    def epochs(self) -> Iterator[int]:
        return iter(count(self.epoch) if self.last is None else range(self.epoch, self.last))


class Ranges:
    """Epoch after epoch, a stream's range of it. Args: range."""

    def __init__(self, range: Range):
        self.range = range

    def __call__(self) -> Iterator[Item]:
        for epoch in self.range.epochs():
            yield {"__epoch__": epoch, "__skip__": self.range.skip if epoch == self.range.epoch else 0}


class ReadRange:
    """Ranges -> samples, by `Source.read`. Each has the cursor after it (`__cursor__`).

    Args:
        source: that reads them.
        range: of positions.
        seed: of the order.
    """

    def __init__(self, source: "Source", range: Range, seed: int):
        self.source, self.range, self.seed = source, range, seed

    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        start, stop = self.range[:2]
        for item in items:
            epoch, skip = item["__epoch__"], item["__skip__"]
            found = self.source.read(seed=self.seed, epoch=epoch, start=start, stop=stop, skip=skip)
            for offset, sample in enumerate(found, skip + 1):
                yield {"__epoch__": epoch, "__cursor__": Cursor(epoch=epoch, offset=offset), "sample": sample}


def process() -> tuple[int, int]:
    """The stream of this process and the number of streams, one a dataloader worker."""
    rank, ranks, worker, workers = pytorch_worker_info()
    return rank * workers + worker, ranks * workers
