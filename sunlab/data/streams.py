"""Virtual streams: the global order of samples, cut so that any number of ranks and workers reads the same batches."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice, repeat
from random import Random
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from sunlab.data.base import Source
from sunlab.data.cursor import Cursor, Tally
from sunlab.data.negatives import PromptDraws
from sunlab.data.sample import Item
from sunlab.data.shared import no_room, share
from sunlab.data.stages.samples import joined
from sunlab.draws import keyed_seed
from sunlab.errors import ConfigError, DataError, SunlabError
from sunlab.types import Samples


@dataclass(frozen=True)
class Layout:
    """How an epoch of `samples` becomes steps of `batch_size` samples from `streams` virtual streams.

    Stream v is the v-th of V equal, contiguous ranges of the epoch's order; every step takes batch_size / V samples of
    each stream, so *which samples a step has* does not depend on who reads them. The epoch has floor(samples /
    batch_size) steps; the rest of its order, less than one batch, is left out of this epoch (another rest in the next).

    A source in parts whose samples cannot share a batch (aspect-ratio buckets) has all this for each part, and a seeded
    order of the parts' steps; a part's rest is its own.

    Attributes:
        samples: in an epoch.
        batch_size: samples in an optimizer step, over all ranks and accumulated micro-batches.
        streams: V.
        parts: samples of each part; empty: one part.

    Raises:
        ConfigError: batch_size is no multiple of streams, or exceeds the samples.
    """

    samples: int
    batch_size: int
    streams: int
    parts: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.streams < 1 or self.batch_size < 1 or self.batch_size % self.streams:
            raise ConfigError(
                f"data.batch_size: {self.batch_size} is no multiple of data.streams = {self.streams}; "
                f"set data.streams={_divisor(self.batch_size, self.streams)}, or another batch size"
            )
        if not self.steps:
            raise ConfigError(
                f"data.batch_size: {self.batch_size} exceeds the {max(self.counts)} samples of an epoch, which would repeat "
                f"samples within a step; set data.batch_size to at most {max(self.counts)}, or add data"
            )

    @property
    def counts(self) -> Sequence[int]:
        """Samples of each part."""
        return self.parts or (self.samples,)

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return sum(samples // self.batch_size for samples in self.counts)

    def turns(self, seed: int, epoch: int) -> Sequence[int]:
        """The part of each step of an epoch."""
        if len(self.counts) == 1:
            return bytes(self.steps)
        turns = [part for part, samples in enumerate(self.counts) for _ in range(samples // self.batch_size)]
        Random(keyed_seed(seed, epoch, "parts")).shuffle(turns)
        return turns

    @property
    def chunk(self) -> int:
        """Samples of each stream in a step."""
        return self.batch_size // self.streams

    def deal(self, reader: int, readers: int) -> tuple[int, ...]:
        """The streams of one of `readers` readers: v = reader mod readers.

        Reader r + ranks * w is worker w of rank r, so that the streams of a rank are v = r mod ranks for any workers.

        Raises:
            ConfigError: streams is no multiple of readers.
        """
        if self.streams % readers:
            raise ConfigError(
                f"data.streams: {self.streams} cannot be dealt evenly to {readers} readers (ranks x workers); set "
                f"data.streams to a multiple of {readers}, or change the number of ranks (trainer.devices) or data.workers"
            )
        return tuple(range(reader, self.streams, readers))


class Share(NamedTuple):
    """What one reader gives to a step.

    Attributes:
        batch: its samples ordered by stream.
        cursors: where each of its streams stands after the step, in the order "stream".
        tally: what it counted since its last share.
    """

    batch: Samples
    cursors: dict[int, Cursor] = {}  # noqa: RUF012 -- never changed
    tally: Tally | None = None

    def __reduce__(self) -> str | tuple[Any, ...]:
        """The batch moves to shared memory as the queue of a dataloader worker pickles it, in a thread, while the worker
        decodes the next. If that fails the error is handed over instead: the queue would print it and drop the batch."""
        try:
            share(self.batch)
        except RuntimeError as error:
            return no_room(error).__reduce__()
        return Share, tuple(self)


class Reader(IterableDataset):
    """One rank's (or one dataloader worker's) share of each optimizer step: `layout.chunk` samples of each of its streams.

    Args:
        source: what is read.
        draws: prompts, negatives and seeds.
        layout: of the steps.
        seed: of the order.
        rank, ranks: of the process.
        step: the optimizer step to begin at, counted over all epochs.
        cursors: in the order "stream", where each stream stands at that step; a stream that is missing begins.
    """

    def __init__(
        self,
        source: Source,
        draws: PromptDraws,
        layout: Layout,
        *,
        seed: int,
        rank: int,
        ranks: int,
        step: int = 0,
        cursors: Mapping[int, Cursor] | None = None,
    ):
        self.source, self.draws, self.layout, self.seed = source, draws, layout, seed
        self.rank, self.ranks, self.step, self.cursors = rank, ranks, step, cursors or {}

    def steps(self, reader: int, readers: int) -> Iterator[Share]:
        """The shares of one of `readers` readers."""
        tally, own, parts = Tally(), self.layout.deal(reader, readers), self.source.parts()
        epoch, gone = (0, 0) if self.source.order == "stream" else divmod(self.step, self.layout.steps)
        passed = Counter({0: gone}) if len(parts) == 1 else Counter(map(int, self.layout.turns(self.seed, epoch)[:gone]))
        streams: dict[int, list[Iterator[list[Item]]]] = {}
        for part in self._turns(len(parts), epoch, gone):
            if part not in streams:
                start = Cursor(epoch=epoch, offset=passed[part] * self.layout.chunk)
                streams[part] = [self._chunks(parts[part], v, self.cursors.get(v, start), tally) for v in own]
            chunks = [next(stream) for stream in streams[part]]
            cursors = {}
            if self.source.order == "stream":  # else the step alone tells them
                cursors = {stream: chunk[-1]["__cursor__"] for stream, chunk in zip(own, chunks, strict=True)}
            given = Share(joined([item for chunk in chunks for item in chunk]), cursors, tally.emptied())
            del chunks  # the samples are copied; only the batch stays in memory
            yield given
            del given

    def _turns(self, parts: int, epoch: int, gone: int) -> Iterator[int]:
        """The part of each step from the first on."""
        if parts == 1:
            yield from repeat(0)
        for number in count(epoch):
            yield from map(int, self.layout.turns(self.seed, number)[gone:])
            gone = 0

    def _chunks(self, part: Source, stream: int, start: Cursor, tally: Tally) -> Iterator[list[Item]]:
        """The samples of a stream in each step. Raises `DataError` where there are fewer than were counted."""
        size, streams = self.layout.chunk, self.layout.streams
        items = iter(
            part.pipeline(
                seed=self.seed, streams=streams, stream=stream, start=start, draws=self.draws, together=size, tally=tally
            )
        )
        ends: Iterator[Cursor | None] = repeat(None)
        if self.source.order == "exact":
            length = len(part) // (streams * size) * size
            first = start.epoch * length + start.offset + size
            ends = (Cursor(epoch=(end - 1) // length, offset=(end - 1) % length + 1) for end in count(first, size))
        for end in ends:
            chunk = list(islice(items, size))
            if len(chunk) < size or end not in (None, chunk[-1]["__cursor__"]):
                raise DataError(f"{type(part).__name__} has fewer samples than it counted, or a stage dropped some")
            if len({item.get("__group__") for item in chunk}) > 1:
                raise DataError("a stage of data.source.stages drops samples of aspect-ratio buckets: put it before shuffle")
            yield chunk
            del chunk

    def __iter__(self) -> Iterator[Share | SunlabError]:
        """A dataloader worker yields an error as an item, because torch would put its message at the end of a traceback."""
        worker = get_worker_info()
        if worker is None:
            yield from self.steps(self.rank, self.ranks)
            return
        try:
            yield from self.steps(self.rank + self.ranks * worker.id, self.ranks * worker.num_workers)
        except SunlabError as error:
            yield error


def _divisor(number: int, near: int) -> int:
    return max(d for d in range(1, max(1, min(number, near)) + 1) if number % d == 0) if number > 0 else 1
