"""The source "shards": webdataset tar files with images or latents, captions and json."""

from collections.abc import Iterator
from hashlib import blake2b, file_digest
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Literal

from sunlab.data.base import SOURCES, Sample, Source
from sunlab.data.decode import BadSample, decode, texts
from sunlab.data.manifest import Shard, shards_of
from sunlab.data.paths import expand
from sunlab.data.shuffle import BufferOrder
from sunlab.data.tar import samples_of
from sunlab.draws import keyed_seed
from sunlab.errors import ConfigError, DataError


@SOURCES.register("shards")
class Shards(Source):
    """Tar shards in the layout of webdataset and LAION: {key}.png|webp|jpg, {key}.txt, {key}.json.

    An epoch is one permutation of the shards from (seed, epoch). Each range of it that is read goes through a shuffle
    buffer of its own, keyed by (seed, epoch, start, stop); the buffer holds undecoded samples.

    Args:
        urls: paths, globs and brace patterns; relative ones are looked up in the working directory, then in
            `sunlab/assets`.
        shuffle: samples in the shuffle buffer of each range; 0 keeps the order within shards.
        limit: only the first so many samples, in the order of `urls`.
        on_error: what a sample that cannot be decoded does: stop, or be left out (which training refuses, because the
            steps of an epoch are counted ahead; it is for looking at data).

    Raises:
        DataError: nothing found, a shard that is not what its manifest says, or no samples.
    """

    def __init__(
        self,
        *,
        urls: list[str],
        shuffle: int = 1000,
        limit: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        if limit is not None and limit < 1:
            raise ConfigError(f"limit of shards is {limit}: give at least 1, or null for all")
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        self.shuffle, self.on_error = shuffle, on_error
        paths = list(dict.fromkeys(path for url in self.urls for path in expand(url)))
        self.shards = _first(shards_of(paths), limit)
        if not len(self):
            raise DataError(f"no samples in {self.urls}: {len(paths)} shards, none with members that are read")
        self._texts: dict[int, list[tuple[str, tuple[str, ...]]]] = {}  # by limit, read once

    def __len__(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def fingerprint(self) -> str:
        contents = [(shard.samples, shard.sha256 or _digest(shard.path)) for shard in self.shards]
        return blake2b(repr(contents).encode(), digest_size=8).hexdigest()

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        for item in self.attempts(seed=seed, epoch=epoch, start=start, stop=stop, skip=skip):
            if isinstance(item, Sample):
                yield item
            elif self.on_error == "raise":
                raise item

    def attempts(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample | BadSample]:
        """As `read`, with the error in the place of each sample that cannot be decoded."""
        order = BufferOrder(stop - start, self.shuffle, Random(keyed_seed(seed, epoch, "buffer", start, stop)))
        order.skip(skip)
        incoming = self._undecoded(seed, epoch, start, stop, frozenset(order.pending), order.front)
        held: dict[int, tuple[dict[str, Any], Shard]] = {}
        for position in order:
            while position not in held:
                arrived, raw, shard = next(incoming)
                held[arrived] = raw, shard
            try:
                raw, shard = held.pop(position)
                yield decode(raw, shard.path)
            except BadSample as error:
                yield error

    def _undecoded(
        self, seed: int, epoch: int, start: int, stop: int, pending: frozenset[int], front: int
    ) -> Iterator[tuple[int, dict[str, Any], Shard]]:
        """The samples of a range at the positions `pending` and from `front` on; shards without any stay closed."""
        shards = list(self.shards)
        Random(keyed_seed(seed, epoch, "shards")).shuffle(shards)
        base = -start  # position in the range of the shard's first sample
        for shard in shards:
            end = min(base + shard.samples, stop - start)
            if end > 0 and (end > front or any(base <= position < end for position in pending)):
                for position, raw in enumerate(_counted(shard, end - base), base):
                    if position >= max(front, 0) or position in pending:
                        yield position, raw, shard
            base += shard.samples
            if base >= stop - start:
                return
        raise DataError(f"positions {start} ... {stop} were asked for, the epoch has {len(self)}")

    def prompts(self, limit: int) -> tuple[str, ...]:
        return tuple(caption for caption, _ in self._captions(limit) if caption)

    def keywords(self, limit: int) -> tuple[str, ...]:
        words = dict.fromkeys(word for _, some in self._captions(limit) for word in some)
        return tuple(islice(words, limit))

    def _captions(self, limit: int) -> list[tuple[str, tuple[str, ...]]]:
        if limit not in self._texts:
            members = frozenset({"txt", "json"})
            raws = (raw for shard in self.shards for raw in islice(samples_of(shard.path, members), shard.samples))
            self._texts[limit] = [texts(raw) for raw in islice(raws, limit)]
        return self._texts[limit]


def _counted(shard: Shard, wanted: int) -> Iterator[dict[str, Any]]:
    """The first `wanted` samples of a shard. Raises `DataError` where it has fewer."""
    count = 0
    for count, raw in enumerate(islice(samples_of(shard.path), wanted), 1):  # noqa: B007
        yield raw
    if count < wanted:
        raise DataError(f"{shard.path}: only {count} of {shard.samples} samples; copy the shard or count it again")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _first(shards: list[Shard], limit: int | None) -> list[Shard]:
    chosen, left = [], sum(shard.samples for shard in shards) if limit is None else limit
    for shard in shards:
        samples = min(shard.samples, left)
        left -= samples
        if samples:
            chosen.append(Shard(shard.path, samples, shard.bytes, shard.sha256))
    return chosen
