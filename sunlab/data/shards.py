"""The source "shards": webdataset tar files with images or latents, captions and json."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from sunlab.data.base import PIPELINE, SOURCES, Pool, Sample, Source
from sunlab.data.buckets import into_buckets, shapes
from sunlab.data.captions import Captions
from sunlab.data.counted import Counted
from sunlab.data.decode import MAX_PIXELS, Decoder, texts
from sunlab.data.filters.base import FILTERS, Filter
from sunlab.data.framing import Framing
from sunlab.data.indexing import file_sha256
from sunlab.data.manifest import Shard, all_listed
from sunlab.data.negatives import Empty
from sunlab.data.opened import BadSample, Raw
from sunlab.data.pipeline import Pipeline, build_stages
from sunlab.data.prompts import PromptDraws
from sunlab.data.quarantine import Quarantine
from sunlab.data.reading import Reading
from sunlab.data.remote import Remote, default_folder
from sunlab.data.scan import scan
from sunlab.data.selection import TEXTS, Dropped
from sunlab.data.stages.samples import raw_of
from sunlab.data.streamed import Streamed
from sunlab.data.tar import Unread
from sunlab.data.urls import shard_urls
from sunlab.errors import ConfigError


@SOURCES.register("shards")
class Shards(Source):
    """Tar shards in the layout of webdataset, img2dataset and LAION: {key}.jpg|png|webp, {key}.txt, {key}.json.

    Args:
        urls: paths, globs, brace patterns, lists of these in .txt files, and s3://, gs://, hf:// or https:// URLs; relative
            paths are looked up in the working directory, then in `sunlab/assets`.
        shuffle: samples in the shuffle buffer of each range; 0 keeps the order within shards.
        limit: only the first so many samples, in the order of `urls`, after the filters.
        filters: which samples are kept, each a name with its parameters (`sunlab list filters`).
        size: pixels of a side that pictures are resized to cover and cropped to; null: as they are.
        crop: the place of the crop; random: drawn from (seed, epoch, key).
        flip: share of pictures mirrored, drawn likewise.
        buckets: keep aspect ratios: pictures of about size x size pixels whose sides are multiples of this; null: squares.
        captions: which text is the prompt, by weight: {caption: 0.8, keywords: 0.2}, or any field of the json.
        most_keywords: in a prompt made of keywords.
        on_error: what a bad sample does: stop the run, or be quarantined: written down, another in its place.
        quarantine_limit: bad samples that are borne.
        keys: plain: as in the shard; path: with its folder and name before, for sets whose keys are the same.
        max_pixels: larger pictures are bad samples.
        cache: folder for whole remote shards; null: ~/.cache/sunlab/shards in the order exact, none in a stream.
        cache_gb: GiB that it may hold.
        order: exact: all samples are counted first, and an epoch is a permutation of them; stream: starts at once, each
            stream reads its share of the shards. null: exact with a limit or with manifests of all shards, else stream.
        stages: further stages of the stream, each a name with its parameters and `after`: the stage that it follows
            (`sunlab list stages`, `sunlab doctor data --plan`).

    Raises:
        ConfigError: parameters out of range.
        DataError: nothing found, a shard that is not what its manifest says, filters that drop everything, no samples.
        StorageError: a file that cannot be read or fetched.
    """

    reads_shards = True

    def __init__(
        self,
        *,
        urls: list[str],
        shuffle: int = 1000,
        limit: int | None = None,
        filters: list[str | dict[str, Any]] | None = None,
        size: int | None = None,
        crop: Literal["center", "random"] = "center",
        flip: float = 0.0,
        buckets: int | None = None,
        captions: dict[str, float] | None = None,
        most_keywords: int = 5,
        on_error: Literal["raise", "quarantine"] = "raise",
        quarantine_limit: int = 1000,
        keys: Literal["plain", "path"] = "plain",
        max_pixels: int = MAX_PIXELS,
        cache: str | None = None,
        cache_gb: float = 100.0,
        order: Literal["exact", "stream"] | None = None,
        stages: list[dict[str, Any]] | None = None,
    ):
        if limit is not None and limit < 1:
            raise ConfigError(f"limit of shards is {limit}: give at least 1, or null for all")
        if (flip or buckets or crop == "random") and size is None:
            raise ConfigError("crop, flip and buckets of shards need a size: set size, such as 512")
        self.choices = [] if buckets is None or size is None else shapes(size, buckets)
        if buckets is not None and not self.choices:
            raise ConfigError(
                f"buckets of shards: no shape of {size}x{size} pixels has sides that are multiples of {buckets}"
            )
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        self.filters, self.stages = build_filters(filters), build_stages(stages)
        self.remote = Remote(Path(cache) if cache else default_folder(), int(cache_gb * 2**30))
        addresses = shard_urls(self.urls, self.remote)
        framing = None if size is None else Framing(size, size, crop, flip)
        decoder = Decoder(framing, None if captions is None else Captions(captions, most_keywords), max_pixels)
        quarantine = Quarantine(limit=quarantine_limit) if on_error == "quarantine" else None
        self.counted = Counted(addresses, self.remote, self.filters, decoder, shuffle, quarantine, keys == "path", limit)
        kept = None if cache is None else self.remote
        self.streamed = Streamed(
            addresses.urls, self.remote, kept, self.filters, self.stages, decoder, shuffle, self.choices, quarantine
        )
        self.order = order or ("exact" if limit is not None or all_listed(addresses.urls, self.remote) else "stream")
        if self.order == "stream" and limit is not None:
            raise ConfigError("limit of shards needs counted samples: set order to exact, or leave limit out")
        if self.order == "exact":
            if self.stages:
                raise ConfigError("stages of shards are inserted into a stream: set order to stream")
            _ = self.reading
        self._texts: dict[int, list[tuple[str, tuple[str, ...]]]] = {}  # by limit, read once
        self._parts: tuple[Source, ...] | None = None

    @property
    def whole(self) -> Sequence[Shard]:
        """All shards, counted."""
        return self.counted.whole

    @property
    def dropped(self) -> Dropped | None:
        return self.counted.selected[1] if self.order == "exact" else None

    @property
    def reading(self) -> Reading:
        return self.counted.reading

    def pipeline(self, **given: Any) -> Pipeline:
        return self.streamed.pipeline(**{**PIPELINE, **given})

    def plan(self) -> list[tuple[str, str]]:
        """The stages that training reads the stream by: each one's name, and what it does."""
        return self.pipeline(draws=PromptDraws(Empty(), Pool()), batch=1).plan()

    @property
    def shaped(self) -> bool:
        return bool(self.choices)

    def __len__(self) -> int:
        return len(self.reading)

    @property
    def shards(self) -> Sequence[Shard]:
        """With the numbers of the samples that are read."""
        return self.reading.shards

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        return self.reading.read(seed, epoch, start, stop, skip)

    @property
    def window(self) -> int | None:
        return self.reading.shuffle

    def attempts(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample | BadSample]:
        """As `read`, with the error in the place of each bad sample."""
        return self.reading.attempts(seed, epoch, start, stop, skip)

    def sound(self, *, start: int, stop: int) -> Iterator[Sample]:
        return self.reading.sound(start, stop)

    def parts(self) -> Sequence[Source]:
        if not self.choices:
            return (self,)
        if self._parts is None:
            self._parts = tuple(self._buckets())
        return self._parts

    def quarantine_in(self, folder: Path) -> None:
        """Write bad samples down in the run's folder."""
        if self.counted.quarantine is not None:
            self.counted.quarantine.path = folder / self.counted.quarantine.path.name

    def notice(self) -> str | None:
        if self.order == "stream":
            if self.streamed.indexes.some:
                return None
            first = self.streamed.urls[0]
            return (
                f"shards have no index ({first}, ...): altered bytes in them cannot be noticed, and a sample's key begins "
                "with its shard's name. `sunlab data index` makes one"
            )
        blind = [shard for shard in self.shards if shard.index is None]
        said = [str(self.unread)] if self.unread else []
        if blind:
            said.append(
                f"{len(blind)} of {len(self.shards)} shards have no index ({blind[0]}, ...): altered bytes in them cannot "
                "be noticed. `sunlab data index` makes one"
            )
        return ". ".join(said) or None

    @property
    def indexed(self) -> bool:
        """Whether every sample is verified against a digest."""
        if self.order == "stream":
            return self.streamed.indexes.some
        return all(shard.index is not None for shard in self.shards)

    @property
    def unread(self) -> Unread:
        """Members that are not read because of their names."""
        found = Unread()
        for shard in self.whole:
            found.add(shard.unread)
        return found

    def identity(self) -> str:
        """Of sizes and counts, and of digests where a manifest has them; not of places, so that data may move."""
        if self.order == "stream":
            return _hash(self.streamed.identity())
        return _hash([(s.samples, s.bytes, s.sha256, _brief(s)) for s in self.shards], self.choices, self.reading.shuffle)

    def fingerprint(self) -> str:
        contents = [(len(s), s.sha256 or self._sha256(s), _brief(s)) for s in self.shards]
        return _hash(contents, self.reading.decoder)

    def _sha256(self, shard: Shard) -> str:
        with self.remote.held(shard.url, shard.bytes) as path:
            return file_sha256(path)

    def prompts(self, limit: int) -> tuple[str, ...]:
        return tuple(caption for caption, _ in self._captions(limit) if caption)

    def keywords(self, limit: int) -> tuple[str, ...]:
        words = dict.fromkeys(word for _, some in self._captions(limit) for word in some)
        return tuple(islice(words, limit))

    def _buckets(self) -> Iterator[Source]:
        decoder = self.reading.decoder
        assert decoder.framing is not None
        for (width, height), shards in zip(
            self.choices, into_buckets(self.shards, self.choices, self.remote, self.counted.passes), strict=True
        ):
            framing = replace(decoder.framing, width=width, height=height)
            if shards:
                yield Bucket(replace(self.reading, shards=shards, decoder=replace(decoder, framing=framing)))

    def _captions(self, limit: int) -> list[tuple[str, tuple[str, ...]]]:
        if limit not in self._texts:
            self._texts[limit] = [texts(raw) for raw in islice(self._raws(), limit)]
        return self._texts[limit]

    def _raws(self) -> Iterator[Raw]:
        """Captions and json of the samples; bad ones are passed over where they are quarantined."""
        if self.order == "stream":
            yield from (
                raw_of(item) for item in self.pipeline(stream=0, passes=1, last="select" if self.filters else "verify")
            )
            return
        for raw in (raw for shard in self.shards for _, raw in scan(shard, self.remote, TEXTS)):
            if not isinstance(raw, BadSample):
                yield raw
            elif self.counted.quarantine is None:
                raise raw


def build_filters(requests: Sequence[str | dict[str, Any]] | None) -> list[tuple[str, Filter]]:
    """Filters with a name each, for tables."""
    keyed = enumerate(requests or [])
    return [(_name_of(one), FILTERS.build(one, key=f"data.source.filters.{number}")) for number, one in keyed]


class Bucket(Source):
    """The samples of one aspect ratio. Args: reading, of them."""

    def __init__(self, reading: Reading):
        self.reading = reading

    def __len__(self) -> int:
        return len(self.reading)

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        return self.reading.read(seed, epoch, start, stop, skip)


def _brief(shard: Shard) -> str:
    return "" if shard.kept is None else blake2b(shard.kept.tobytes(), digest_size=8).hexdigest()


def _hash(*told: object) -> str:
    return blake2b(repr(told).encode(), digest_size=8).hexdigest()


def _name_of(request: str | dict[str, Any]) -> str:
    """For tables: the component's name, with its field where it has one."""
    if isinstance(request, str):
        return request
    return " ".join(str(request[key]) for key in ("name", "field") if key in request)
