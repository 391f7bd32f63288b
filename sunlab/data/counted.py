"""Shards whose samples are counted: what the order "exact" needs before the first step, and a stream never asks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from sunlab.data.decode import Decoder
from sunlab.data.distinct import require_distinct, require_names
from sunlab.data.manifest import Shard, shards_of
from sunlab.data.quarantine import Quarantine
from sunlab.data.reading import Reading
from sunlab.data.remote import Remote
from sunlab.data.selection import Dropped, Named, select
from sunlab.data.tar import Unread
from sunlab.data.urls import Addresses
from sunlab.errors import DataError


@dataclass(frozen=True)
class Counted:
    """Shards of which every sample is counted.

    Attributes:
        addresses: of the shards.
        remote: where those that are elsewhere are fetched to.
        filters: with a name each.
        decoder, shuffle: as `Reading`'s.
        quarantine: of bad samples; None: the first one stops the run.
        qualified: whether keys begin with the folder and name of their shard.
        limit: only the first so many samples.

    Raises:
        DataError: no samples, a shard that is not what its manifest says, a key in two shards, filters that drop everything.
    """

    addresses: Addresses
    remote: Remote
    filters: Named
    decoder: Decoder
    shuffle: int
    quarantine: Quarantine | None
    qualified: bool
    limit: int | None

    @property
    def passes(self) -> Path:
        """Where results of passes over all shards are kept."""
        return self.remote.folder.parent / "passes"

    @cached_property
    def whole(self) -> list[Shard]:
        """All shards, with their numbers of samples."""
        urls, globs = self.addresses
        shards = shards_of(urls, self.remote, globs=globs, lenient=self.quarantine is not None)
        if not any(shard.samples for shard in shards):
            unread = Unread()
            for shard in shards:
                unread.add(shard.unread)
            raise DataError(
                f"no samples in {urls[:3]}: {len(urls)} shards, none with members that are read"
                + (f": {unread}" if unread else "")
            )
        if self.qualified:
            require_names(shards)
        else:
            require_distinct(shards, self.remote, self.passes)
        return shards

    @cached_property
    def selected(self) -> tuple[Sequence[Shard], Dropped | None]:
        """Shards with the numbers of the samples that the filters keep, and what these did."""
        if not self.filters:
            return self.whole, None
        lenient = self.quarantine is not None
        return select(self.whole, self.filters, self.remote, self.passes, lenient=lenient)

    @cached_property
    def reading(self) -> Reading:
        shards = _first(self.selected[0], self.limit)
        return Reading(shards, self.decoder, self.shuffle, self.remote, self.quarantine, self.qualified)


def _first(shards: Sequence[Shard], limit: int | None) -> list[Shard]:
    chosen, left = [], sum(map(len, shards)) if limit is None else limit
    for shard in shards:
        samples = min(len(shard), left)
        left -= samples
        if samples:
            chosen.append(shard if samples == len(shard) else replace(shard, kept=shard.numbers(0, samples)))
    return chosen
