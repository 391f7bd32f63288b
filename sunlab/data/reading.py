"""The samples of shards in the order of an epoch, decoded."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random
from threading import Thread

from sunlab.data.base import Sample
from sunlab.data.decode import Decoder
from sunlab.data.manifest import Shard
from sunlab.data.opened import BadSample, Load, Raw, loads_of
from sunlab.data.quarantine import Quarantine
from sunlab.data.remote import Remote, is_remote
from sunlab.data.shuffle import BufferOrder
from sunlab.draws import keyed_seed
from sunlab.errors import DataError, SunlabError


@dataclass(frozen=True)
class Reading:
    """How the kept samples of some shards are read.

    An epoch is one permutation of the shards from (seed, epoch). Each range of it that is read goes through a shuffle
    buffer of its own, keyed by (seed, epoch, start, stop). The buffer holds places in indexed shards, whose bytes are read
    and verified when their turn comes, and undecoded bytes of others.

    Attributes:
        shards: with the numbers of their kept samples.
        decoder: from bytes to samples.
        shuffle: samples in the buffer.
        remote: where shards that are elsewhere are fetched to.
        quarantine: of bad samples; None: the first one stops the run.
        qualified: whether keys begin with the folder and name of their shard.
    """

    shards: Sequence[Shard]
    decoder: Decoder
    shuffle: int
    remote: Remote
    quarantine: Quarantine | None = None
    qualified: bool = False

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def read(self, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        """The samples at positions start ... stop - 1 without the first `skip`. In the place of a quarantined one stands
        the next good one in the order (at the end of the range, its first), so that every range keeps its length."""
        bad: list[BadSample] = []
        for item in self.attempts(seed, epoch, start, stop, skip):
            if isinstance(item, BadSample):
                if self.quarantine is None:
                    raise item
                self.quarantine.add(item)
                bad.append(item)
                continue
            yield from (_in_place_of(one, item) for one in bad)
            bad.clear()
            yield item
        if bad:
            good = next((s for s in self.attempts(seed, epoch, start, stop) if isinstance(s, Sample)), None)
            if good is None:
                raise DataError(f"all of {stop - start} samples in a row are bad, the last: {bad[-1]}")
            yield from (_in_place_of(one, good) for one in bad)

    def sound(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples at positions start ... stop - 1 of the first epoch; bad ones are quarantined and left out."""
        if self.quarantine is None:
            yield from self.read(0, 0, start, stop)
            return
        for item in self.attempts(0, 0, start, stop):
            if isinstance(item, BadSample):
                self.quarantine.add(item)
            else:
                yield item

    def attempts(self, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample | BadSample]:
        """The same, with the error in the place of each bad sample."""
        order = BufferOrder(stop - start, self.shuffle, Random(keyed_seed(seed, epoch, "buffer", start, stop)))
        order.skip(skip)
        incoming = self._places(seed, epoch, start, stop, sorted(order.pending), order.front)
        held: dict[int, tuple[Load | BadSample, Shard]] = {}
        for position in order:
            while position not in held:
                arrived, load, shard = next(incoming)
                held[arrived] = load, shard
            load, shard = held.pop(position)
            try:
                yield load if isinstance(load, BadSample) else self._decoded(load(), shard, seed, epoch)
            except BadSample as error:
                yield error

    def _decoded(self, raw: Raw, shard: Shard, seed: int, epoch: int) -> Sample:
        if self.qualified:
            raw = Raw(f"{shard.name}/{raw.key}", raw.members)
        return self.decoder(raw, shard.url, Random(keyed_seed(seed, epoch, raw.key, "decode")))

    def _places(
        self, seed: int, epoch: int, start: int, stop: int, pending: Sequence[int], front: int
    ) -> Iterator[tuple[int, Load | BadSample, Shard]]:
        """The samples of a range at the positions `pending` and from `front` on; shards without any stay closed."""
        shards = list(self.shards)
        Random(keyed_seed(seed, epoch, "shards")).shuffle(shards)
        base, count = -start, stop - start  # position in the range of the shard's first sample
        for number, shard in enumerate(shards):
            end = min(base + len(shard), count)
            wanted = [*(p for p in pending if base <= p < end), *range(max(base, front, 0), end)]
            if wanted:
                if end < count and number + 1 < len(shards):
                    self._fetch_ahead(shards[number + 1])
                places = [p - base for p in wanted]
                numbers = places if shard.kept is None else shard.kept[places].tolist()
                index = shard.read_index(self.remote)
                with self.remote.held(shard.url, shard.bytes) as path:
                    loads = loads_of(path, index, numbers, shard.url)
                for position, load in zip(wanted, loads, strict=True):
                    yield position, load, shard
            base += len(shard)
            if base >= count:
                return
        raise DataError(f"positions {start} ... {stop} were asked for, the epoch has {len(self)}")

    def _fetch_ahead(self, shard: Shard) -> None:
        def fetch() -> None:
            with suppress(SunlabError):  # it is told when the shard's turn comes
                self.remote.local(shard.url, shard.bytes)

        if is_remote(shard.url):
            Thread(target=fetch, daemon=True).start()


def _in_place_of(bad: BadSample, good: Sample) -> Sample:
    return replace(good, key=f"{good.key} (for {bad.key})")
