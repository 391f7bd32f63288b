"""The source "shards": webdataset tar files with images or latents, captions and json."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from sunlab.data.base import SOURCES, Source
from sunlab.data.cursor import Request
from sunlab.data.decode import MAX_PIXELS, Decoder, texts
from sunlab.data.exact import Exact, counted, unread_of
from sunlab.data.fields import Captions
from sunlab.data.filters.base import Dropped
from sunlab.data.framing import Framing, shapes
from sunlab.data.indexing import file_sha256
from sunlab.data.manifest import Manifests, Shard
from sunlab.data.negatives import Empty, Pool, PromptDraws
from sunlab.data.passes import TEXTS, into_buckets, scan
from sunlab.data.pipeline import Pipeline, build_filters, build_stages
from sunlab.data.quarantine import Quarantine
from sunlab.data.remote import Remote, default_folder
from sunlab.data.sample import BadSample, Raw, Sample
from sunlab.data.stages.samples import raw_of
from sunlab.data.stream import Stream, short_hash
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
        decoding: fast: JPEGs are unpacked at 1/2, 1/4 or 1/8 where that covers the size, and torch resizes; full: all pixels
            are unpacked, and Pillow resizes.
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
        decoding: Literal["fast", "full"] = "fast",
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
        self.remote = Remote(Path(cache) if cache else default_folder(), int(cache_gb * 2**30))
        self.addresses = shard_urls(self.urls, self.remote)
        framing = None if size is None else Framing(size, size, crop, flip, decoding == "full")
        quarantine = Quarantine(limit=quarantine_limit) if on_error == "quarantine" else None
        self._manifests = Manifests(self.remote)
        self.stream = Stream(
            self.addresses.urls,
            Decoder(framing, None if captions is None else Captions(captions, most_keywords), max_pixels),
            shuffle,
            build_filters(filters),
            build_stages(stages),
            self._manifests,
            None if cache is None else self.remote,
            self.choices,
            quarantine,
        )
        self.limit, self.qualified = limit, keys == "path"
        self.order = order or ("exact" if limit is not None or self._all_listed() else "stream")
        if self.order == "stream" and limit is not None:
            raise ConfigError("limit of shards needs counted samples: set order to exact, or leave limit out")
        if self.order == "exact":
            _ = self.exact
        self._texts: dict[int, list[tuple[str, tuple[str, ...]]]] = {}  # by limit, read once

    @cached_property
    def counts(self) -> tuple[list[Shard], list[Shard], Dropped | None]:
        """All shards; those with samples that are read, with the numbers of these; what the filters dropped."""
        globs = self.addresses.globs
        return counted(self.stream, self._manifests, globs, qualified=self.qualified, limit=self.limit)

    @cached_property
    def exact(self) -> Exact:
        """The counted samples. Counting reads every shard that no manifest lists."""
        return Exact(self.counts[1], self.stream, self.remote, self.qualified)

    @property
    def dropped(self) -> Dropped | None:
        return self.counts[2] if self.order == "exact" else None

    def pipeline(self, **given: Any) -> Pipeline:
        return self.exact.pipeline(**given) if self.order == "exact" else self.stream.pipeline(Request(**given))

    def plan(self) -> list[tuple[str, str]]:
        """The stages of the pipeline that training reads: each one's name, and what it does."""
        return self.pipeline(draws=PromptDraws(Empty(), Pool()), batch=1).plan()

    def __len__(self) -> int:
        return len(self.exact)

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        return self.exact.read(seed=seed, epoch=epoch, start=start, stop=stop, skip=skip)

    def sound(self, *, start: int, stop: int) -> Iterator[Sample]:
        return self.exact.sound(start=start, stop=stop)

    def parts(self) -> Sequence[Source]:
        return self._buckets if self.choices and self.order == "exact" else (self,)

    def quarantine_in(self, folder: Path) -> None:
        self.stream.quarantine_in(folder)

    def notice(self) -> str | None:
        if self.order == "stream":
            if self.stream.indexed:
                return None
            first = self.stream.urls[0]
            return (
                f"shards have no index ({first}, ...): altered bytes in them cannot be noticed, and a sample's key begins "
                "with its shard's name. `sunlab data index` makes one"
            )
        shards, unread = self.exact.shards, self.unread
        blind = [shard for shard in shards if shard.index is None]
        parts = [str(unread)] if unread else []
        if blind:
            parts.append(
                f"{len(blind)} of {len(shards)} shards have no index ({blind[0]}, ...): altered bytes in them cannot "
                "be noticed. `sunlab data index` makes one"
            )
        return ". ".join(parts) or None

    @property
    def indexed(self) -> bool:
        """Whether every sample is verified against a digest."""
        if self.order == "stream":
            return self.stream.indexed
        return all(shard.index is not None for shard in self.exact.shards)

    @property
    def unread(self) -> Unread:
        """Members of counted shards that are not read because of their names."""
        return unread_of(self.counts[0])

    def identity(self) -> str:
        """Of sizes and counts, and of digests where a manifest has them; not of places, so that data may move."""
        if self.order == "stream":
            return short_hash(self.stream.identity())
        contents = [(s.samples, s.bytes, s.sha256, _brief(s)) for s in self.exact.shards]
        return short_hash(contents, self.choices, self.stream.shuffle)

    def fingerprint(self) -> str:
        contents = [(len(s), s.sha256 or self._sha256(s), _brief(s)) for s in self.exact.shards]
        return short_hash(contents, self.stream.decoder)

    def _all_listed(self) -> bool:
        """Whether manifests list all shards, so that nothing must be counted."""
        return all(self._manifests.entry(url) is not None for url in self.stream.urls)

    def _sha256(self, shard: Shard) -> str:
        with self.remote.held(shard.url, shard.bytes) as path:
            return file_sha256(path)

    def prompts(self, limit: int) -> tuple[str, ...]:
        return tuple(caption for caption, _ in self._captions(limit) if caption)

    def keywords(self, limit: int) -> tuple[str, ...]:
        words = dict.fromkeys(word for _, some in self._captions(limit) for word in some)
        return tuple(islice(words, limit))

    @cached_property
    def _buckets(self) -> tuple[Exact, ...]:
        framing, found = self.stream.decoder.framing, []
        assert framing is not None
        buckets = into_buckets(self.exact.shards, self.choices, self.remote)
        for (width, height), shards in zip(self.choices, buckets, strict=True):
            decoder = replace(self.stream.decoder, framing=replace(framing, width=width, height=height))
            if shards:
                found.append(replace(self.exact, shards=shards, stream=replace(self.stream, decoder=decoder)))
        return tuple(found)

    def _captions(self, limit: int) -> list[tuple[str, tuple[str, ...]]]:
        if limit not in self._texts:
            self._texts[limit] = [texts(raw) for raw in islice(self._raws(), limit)]
        return self._texts[limit]

    def _raws(self) -> Iterator[Raw]:
        """Captions and json of the samples; bad ones are left out if they are quarantined."""
        if self.order == "stream":
            last = "select" if self.stream.filters else "verify"
            yield from map(raw_of, self.pipeline(stream=0, passes=1, last=last))
            return
        for raw in (raw for shard in self.exact.shards for raw in scan(shard, self.remote, TEXTS)):
            if not isinstance(raw, BadSample):
                yield raw
            elif self.stream.quarantine is None:
                raise raw


def _brief(shard: Shard) -> str:
    return "" if shard.kept is None else blake2b(shard.kept.tobytes(), digest_size=8).hexdigest()
