"""A source for each of several base models: every batch is of one of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sunlab.data.base import Source
from sunlab.data.sample import Sample
from sunlab.errors import ConfigError


class OfBase(Source):
    """One base's samples, which state its number. Args: source; base, its number."""

    def __init__(self, source: Source, base: int):
        self.source, self.base, self.holds_images = source, base, source.holds_images

    def __len__(self) -> int:
        return len(self.source)

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        for sample in self.source.read(seed=seed, epoch=epoch, start=start, stop=stop, skip=skip):
            yield replace(sample, key=f"{self.base}/{sample.key}", base=self.base)


class ByBase(Source):
    """The sources of several bases. Each optimizer step has samples of one, in an order that is a function of the seed; a
    base is drawn as often as it has batches.

    Args:
        sources: one a base.

    Raises:
        ConfigError: a source in the order "stream", or one in parts.
    """

    def __init__(self, sources: Sequence[Source]):
        for number, source in enumerate(sources):
            if source.order != "exact" or len(source.parts()) > 1:
                raise ConfigError(
                    f"model.bases.{number}.source: bases with sources of their own need counted ones without buckets, "
                    "stored trajectories for instance"
                )
        self.sources = [OfBase(source, number) for number, source in enumerate(sources)]
        self.holds_images = any(source.holds_images for source in sources)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        before, start = 0, start + skip
        for source in self.sources:
            first, last = max(start - before, 0), min(stop - before, len(source))
            if first < last:
                yield from source.read(seed=seed, epoch=epoch, start=first, stop=last)
            before += len(source)

    def parts(self) -> Sequence[Source]:
        return self.sources

    def quarantine_in(self, folder: Path) -> None:
        for part in self.sources:
            part.source.quarantine_in(folder)

    def identity(self) -> str:
        return ", ".join(str(part.source.identity()) for part in self.sources)

    def prompts(self, limit: int) -> Sequence[str]:
        return tuple(dict.fromkeys(prompt for part in self.sources for prompt in part.source.prompts(limit)))[:limit]

    def keywords(self, limit: int) -> Sequence[str]:
        return tuple(dict.fromkeys(word for part in self.sources for word in part.source.keywords(limit)))[:limit]

    @property
    def stored_nfe(self) -> int:
        return sum(part.source.stored_nfe for part in self.sources)
