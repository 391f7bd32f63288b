"""What a pipeline is built for, where it stands, and what it counted."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from webdataset.utils import pytorch_worker_info

from sunlab.data.filters.base import Dropped
from sunlab.data.sample import Bad
from sunlab.data.tar import Unread

if TYPE_CHECKING:
    from sunlab.data.negatives import PromptDraws


class Cursor(NamedTuple):
    """A position in a stream: all that a checkpoint keeps of it.

    Attributes:
        epoch: the pass over all shards.
        position: of the shard in that pass's order.
        number: of the sample in the shard with which the current window begins.
        window: number of the window, counted over all passes.
        offset: samples of the window that were emitted; in the order "exact", of the epoch: position, number and window
            are 0 then.
    """

    epoch: int = 0
    position: int = 0
    number: int = 0
    window: int = 0
    offset: int = 0


@dataclass
class Tally:
    """What a reader counted since its last share.

    Attributes:
        dropped: by filters.
        unread: members that are not read because of their names.
    """

    dropped: Dropped = field(default_factory=Dropped)
    unread: Unread = field(default_factory=Unread)

    def emptied(self) -> "Tally":
        """What was counted; this one begins anew."""
        found = Tally(self.dropped.emptied(), Unread(self.unread))
        self.unread.clear()
        return found

    def add(self, other: "Tally") -> None:
        self.dropped.add(other.dropped)
        self.unread.add(other.unread)


@dataclass(frozen=True)
class Request:
    """The keyword arguments of `Source.pipeline`.

    Attributes:
        seed: of the order and of what is drawn.
        streams: of the training, over all ranks and dataloader workers.
        stream: which one; None: that of this process, as webdataset splits by node and worker.
        start: where it goes on.
        together: samples of the stream in one step. In the order "exact" an epoch of a stream is a multiple of it; with
            aspect-ratio buckets in the order "stream", so many neighbours have one shape, the same in all streams.
        passes: over all samples; None: without end.
        draws: of prompts and negative prompts, under `drawn`; None: none.
        batch: `Samples` of so many instead of items, where there are `draws`.
        tally: of what was read.
        bad: called with each bad sample, which is left out; None: what `on_error` of the source says.
        last: name of the stage after which the pipeline ends; None: all.
    """

    seed: int = 0
    streams: int = 1
    stream: int | None = None
    start: Cursor = field(default_factory=Cursor)
    together: int = 1
    passes: int | None = None
    draws: "PromptDraws | None" = None
    batch: int | None = None
    tally: Tally = field(default_factory=Tally)
    bad: Bad | None = None
    last: str | None = None


class Range(NamedTuple):
    """A stream's equal share of each epoch of counted samples: the positions start ... stop - 1 of its order; of the first
    epoch without the `skip` first samples.

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
    def of(cls, request: "Request", samples: int) -> "Range":
        """Stream v of V takes the v-th of V equal, contiguous ranges, each a multiple of `together`."""
        stream, streams = (request.stream, request.streams) if request.stream is not None else process()
        length = samples // (streams * request.together) * request.together
        return cls(stream * length, (stream + 1) * length, request.start.epoch, request.start.offset, request.passes)

    @property
    def length(self) -> int:
        return self.stop - self.start

    def epochs(self) -> Iterator[int]:
        return iter(count(self.epoch) if self.last is None else range(self.epoch, self.last))


def process() -> tuple[int, int]:
    """The stream of this process and the number of streams, one a dataloader worker."""
    rank, ranks, worker, workers = pytorch_worker_info()
    return rank * workers + worker, ranks * workers
