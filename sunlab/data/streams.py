"""Virtual streams: the global order of samples, cut so that any number of ranks and workers reads the same batches."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from random import Random
from typing import NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from sunlab.data.base import Sample, Source
from sunlab.data.collate import collate
from sunlab.data.cursor import Cursor, Tally
from sunlab.data.prompts import PromptDraws
from sunlab.data.shared import no_room, share
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

    def range(self, stream: int, part: int = 0) -> tuple[int, int]:
        """Positions start and stop of a stream in the epoch's order of a part."""
        length = self.counts[part] // self.batch_size * self.chunk
        return stream * length, (stream + 1) * length

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
        pieces: its samples ordered by stream: one batch, or one a stream where their shapes may differ.
        cursors: where each of its streams stands after the step, in the order "stream".
        tally: what it counted since its last share.
    """

    pieces: list[Samples]
    cursors: dict[int, Cursor] = {}  # noqa: RUF012 -- never changed
    tally: Tally | None = None


class Reader(IterableDataset):
    """One rank's (or one dataloader worker's) shares of the steps. Args: layout; rank, ranks: of the process."""

    def __init__(self, layout: Layout, rank: int, ranks: int):
        self.layout, self.rank, self.ranks = layout, rank, ranks

    @abstractmethod
    def steps(self, reader: int, readers: int) -> Iterator[Share]:
        """The shares of one of `readers` readers."""

    def __iter__(self) -> Iterator[Share | SunlabError]:
        """A dataloader worker yields an error as an item, because torch would put its message at the end of a traceback."""
        worker = get_worker_info()
        if worker is None:
            yield from self.steps(self.rank, self.ranks)
            return
        try:
            for given in self.steps(self.rank + self.ranks * worker.id, self.ranks * worker.num_workers):
                for piece in given.pieces:
                    share(piece)  # here, and not in the queue's thread, where a failure would be printed and lost
                yield given
        except SunlabError as error:
            yield error
        except RuntimeError as error:
            if "/torch_" not in str(error):  # the name of a file in shared memory
                raise
            yield no_room(error)


class Streams(Reader):
    """An endless stream of one rank's (or one worker's) share of each optimizer step, from `first_step` on.

    Args:
        source: what is read.
        draws: prompts, negatives and seeds.
        layout: of the epoch.
        seed: of the order.
        rank, ranks: of the process.
        first_step: the optimizer step, counted over all epochs, to begin at.
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
        first_step: int = 0,
    ):
        super().__init__(layout, rank, ranks)
        self.source, self.draws, self.seed, self.first_step = source, draws, seed, first_step

    def steps(self, reader: int, readers: int) -> Iterator[Share]:
        layout, own = self.layout, self.layout.deal(reader, readers)
        first, skip = divmod(self.first_step, layout.steps)
        parts = self.source.parts()
        for epoch in count(first):
            turns = layout.turns(self.seed, epoch)
            passed, reads = Counter(map(int, turns[:skip])), dict[int, list[Iterator[Sample]]]()
            for part in map(int, turns[skip:]):
                if part not in reads:
                    gone = passed[part] * layout.chunk
                    reads[part] = [self._read(parts[part], epoch, *layout.range(stream, part), gone) for stream in own]
                samples = [sample for read in reads[part] for sample in islice(read, layout.chunk)]
                if len(samples) != layout.chunk * len(own):
                    raise DataError(f"{type(self.source).__name__} has fewer samples than it counted")
                yield Share([collate(samples, [self.draws(sample, epoch) for sample in samples])])
            skip = 0

    def _read(self, part: Source, epoch: int, start: int, stop: int, skip: int) -> Iterator[Sample]:
        return part.read(seed=self.seed, epoch=epoch, start=start, stop=stop, skip=skip)


def _divisor(number: int, near: int) -> int:
    return max(d for d in range(1, max(1, min(number, near)) + 1) if number % d == 0) if number > 0 else 1
