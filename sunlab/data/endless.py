"""Training on sources whose order is "stream": each virtual stream at its own pace, without an end."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

from sunlab.data.base import Source
from sunlab.data.cursor import Cursor, Tally
from sunlab.data.prompts import PromptDraws
from sunlab.data.stages.samples import joined
from sunlab.data.streams import Layout, Reader, Share
from sunlab.errors import DataError


class Endless(Reader):
    """One rank's (or one worker's) share of each optimizer step: `layout.chunk` samples of each of its streams.

    Args:
        source: with the order "stream".
        draws: prompts, negatives and seeds.
        layout: of the steps.
        seed: of the order.
        rank, ranks: of the process.
        cursors: where each stream goes on; a stream that is missing begins.
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
        cursors: Mapping[int, Cursor],
    ):
        super().__init__(layout, rank, ranks)
        self.source, self.draws, self.seed, self.cursors = source, draws, seed, cursors

    def steps(self, reader: int, readers: int) -> Iterator[Share]:
        tally = Tally()
        taken = {v: self._chunks(v, tally) for v in self.layout.deal(reader, readers)}
        while True:
            chunks = {stream: next(chunks, None) for stream, chunks in taken.items()}
            if None in chunks.values():
                raise DataError(f"{type(self.source).__name__} came to an end; a stream has none")
            items = [item for chunk in chunks.values() for item in chunk or ()]
            cursors = {stream: chunk[-1]["__cursor__"] for stream, chunk in chunks.items() if chunk}
            pieces = [joined(chunk) for chunk in chunks.values() if chunk] if self.source.shaped else [joined(items)]
            yield Share(pieces, cursors, tally.emptied())

    def _chunks(self, stream: int, tally: Tally) -> Iterator[list[dict[str, Any]]]:
        """The samples of a stream in each step."""
        count = self.layout.chunk
        items = iter(
            self.source.pipeline(
                seed=self.seed,
                streams=self.layout.streams,
                stream=stream,
                start=self.cursors.get(stream),
                draws=self.draws,
                together=count,
                tally=tally,
            )
        )
        if not self.source.shaped:
            while len(chunk := list(islice(items, count))) == count:
                yield chunk
            return
        for _, group in groupby(items, key=lambda item: (item["__window__"], item["__group__"])):
            yield _filled(list(group), count)


def _filled(group: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """A group of one shape, of which bad samples were left out; others of it are repeated in their place."""
    filled = list(group)
    while len(filled) < count:
        again = group[len(filled) % len(group)]
        key = f"{again['sample'].key} (again {len(filled)})"
        filled.insert(0, {**again, "sample": replace(again["sample"], key=key)})  # the cursor is the last one's
    return filled
