"""Counted shards: the `webdataset.DataPipeline` of the order "exact"."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sunlab.data.base import Source
from sunlab.data.cursor import Range, Request
from sunlab.data.distinct import require_distinct, require_names
from sunlab.data.filters.base import Dropped
from sunlab.data.manifest import Manifests, Shard, shard_name, shards_of
from sunlab.data.passes import select
from sunlab.data.pipeline import Pipeline
from sunlab.data.quarantine import Patience
from sunlab.data.remote import Remote
from sunlab.data.sample import Item, Sample
from sunlab.data.stages.exact import Replace, buffer, epochs, open_shards, read, share
from sunlab.data.stages.samples import decode, finished
from sunlab.data.stream import Stream
from sunlab.data.tar import Unread
from sunlab.errors import DataError


@dataclass(frozen=True)
class Exact(Source):
    """The kept samples of some shards. An epoch is one permutation of the shards from (seed, epoch); each range of it that
    is read goes through a shuffle buffer of its own, keyed by (seed, epoch, start, stop).

    Attributes:
        shards: with the numbers of their kept samples.
        stream: over the same shards, from which all else is taken: decoder, shuffle, quarantine and stages of the user.
        remote: the cache that remote shards are fetched to.
        qualified: whether keys begin with the folder and name of their shard.
    """

    shards: Sequence[Shard]
    stream: Stream
    remote: Remote
    qualified: bool = False

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def pipeline(self, **given: Any) -> Pipeline:
        request = Request(**given)
        return self._over(Range.of(request, len(self)), request)

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        found = self._over(Range(start, stop, epoch, skip, epoch + 1), Request(seed=seed))
        return (item["sample"] for item in found)

    def sound(self, *, start: int, stop: int) -> Iterator[Sample]:
        given = Request(bad=Patience(self.stream.quarantine))
        return (item["sample"] for item in self._over(Range(start, stop, last=1), given))

    def _over(self, range: Range, request: Request) -> Pipeline:
        stream, replacing = self.stream, None
        bad = Patience(stream.quarantine, request.bad)
        if request.bad is None and stream.quarantine is not None:
            bad = replacing = Replace(stream.quarantine, range, partial(self._good, range, request.seed))
        prefix = (lambda url: f"{shard_name(url)}/") if self.qualified else (lambda url: "")
        named: list[tuple[str, Any]] = [
            ("shards", partial(epochs, self.shards, request.seed, range)),
            ("split", share(range)),
            ("shuffle", buffer(range, stream.shuffle, request.seed)),
            ("open", open_shards(self.remote)),
            ("verify", read(bad)),
            ("decode", decode(stream.decoder, prefix, request.seed, bad)),
        ]
        if replacing is not None:
            named.append(("replace", replacing.stage))
        return Pipeline([*named, *finished(request)], stream.inserted, last=request.last)

    def _good(self, range: Range, seed: int, epoch: int) -> Iterator[Item]:
        """The good samples of an epoch's range, from its beginning."""
        whole = Range(range.start, range.stop, epoch, last=epoch + 1)
        return iter(self._over(whole, Request(seed=seed, bad=lambda bad: None)))


def counted(
    stream: Stream, manifests: Manifests, globs: Sequence[str], *, qualified: bool = False, limit: int | None = None
) -> tuple[list[Shard], list[Shard], Dropped | None]:
    """Count the samples of a stream's shards.

    Args:
        stream: over the shards.
        manifests: of the shards, and the cache that remote shards are fetched to.
        globs: the patterns with wildcards by which they were found.
        qualified: whether keys begin with the folder and name of their shard.
        limit: only the first so many samples that the filters keep.

    Returns:
        All shards; those with samples that are read, with the numbers of these; what the filters dropped.

    Raises:
        DataError: no samples, a shard that is not what its manifest says, a key in two shards, filters that drop everything.
    """
    urls, remote, lenient = stream.urls, manifests.remote, stream.quarantine is not None
    whole = shards_of(urls, manifests, globs=globs, lenient=lenient)
    if not any(shard.samples for shard in whole):
        unread = unread_of(whole)
        raise DataError(
            f"no samples in {urls[:3]}: {len(urls)} shards, none with members that are read"
            + (f": {unread}" if unread else "")
        )
    if qualified:
        require_names(whole)
    else:
        require_distinct(whole, remote)
    chosen, dropped = whole, None
    if stream.filters:
        chosen, dropped = select(whole, stream.filters, remote, lenient=lenient)
    return whole, _first(chosen, limit), dropped


def unread_of(shards: Sequence[Shard]) -> Unread:
    """Members that are not read because of their names."""
    found = Unread()
    for shard in shards:
        found.add(shard.unread)
    return found


def _first(shards: Sequence[Shard], limit: int | None) -> list[Shard]:
    chosen, left = [], sum(map(len, shards)) if limit is None else limit
    for shard in shards:
        samples = min(len(shard), left)
        left -= samples
        if samples:
            chosen.append(shard if samples == len(shard) else replace(shard, kept=shard.numbers(0, samples)))
    return chosen
