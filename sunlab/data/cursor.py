"""What a pipeline is built for, where it stands, and what it counted."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

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
