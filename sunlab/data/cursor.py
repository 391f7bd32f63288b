"""Where a stream stands, and what its reader counted."""

from dataclasses import dataclass, field
from typing import NamedTuple

from sunlab.data.selection import Dropped
from sunlab.data.tar import Unread


class Cursor(NamedTuple):
    """A position in a stream: all that a checkpoint keeps of it.

    Attributes:
        epoch: the pass over all shards.
        position: of the shard in that pass's order.
        number: of the sample in the shard, with which the current window begins.
        window: number of the window, counted over all passes.
        offset: samples of the window that were handed out.
    """

    epoch: int = 0
    position: int = 0
    number: int = 0
    window: int = 0
    offset: int = 0


@dataclass
class Tally:
    """What a reader counted since it was asked last.

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
