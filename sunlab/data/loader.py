"""One rank's batches: the shares of its workers joined in the order of streams, and cut into micro-batches."""

import atexit
import gc
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from sunlab.data.collate import cut, join
from sunlab.data.oversight import Oversight
from sunlab.data.shared import clear
from sunlab.data.streams import Reader, Share
from sunlab.distributed.parent import die_with
from sunlab.errors import ConfigError, SunlabError
from sunlab.private import shut_down, workers_of
from sunlab.types import Samples


@dataclass(frozen=True)
class Loader:
    """An endless iterable of micro-batches; each `iter()` begins at the step that `position` gives then.

    It has no length and no state of its own, so that Lightning neither counts epochs in it nor forwards it on resume.

    Attributes:
        streams: the rank's `Reader` from a given optimizer step on.
        workers: loader processes; 0 reads in this one.
        accumulate: micro-batches in a step.
        position: the optimizer step to begin at.
        timeout: seconds that workers may take for their shares of a step; 0: for ever.
        dead_after: seconds for which a worker may be stopped.
        noted: called with each step and the shares of which it is made, before its batch is handed out.

    Raises:
        ConfigError: where the rank's share of a step cannot be cut into `accumulate` equal parts, or streams into readers.
    """

    streams: Callable[[int], Reader]
    workers: int
    accumulate: int
    position: Callable[[], int]
    timeout: float = 0.0
    dead_after: float = 36.0
    noted: Callable[[int, list[Share]], None] = lambda step, shares: None

    def __post_init__(self) -> None:
        streams = self.streams(self.position())
        ranks, layout = streams.ranks, streams.layout
        layout.deal(0, ranks * max(self.workers, 1))
        if (layout.batch_size // ranks) % self.accumulate:
            raise ConfigError(
                f"data.batch_size: {layout.batch_size} cannot be cut into {ranks} ranks x {self.accumulate} accumulated "
                "micro-batches; set it to a multiple, or change trainer.accumulate_grad_batches"
            )

    def __iter__(self) -> Iterator[Samples]:
        step = self.position()
        streams = self.streams(step)
        pieces = self._by_stream(streams)
        count = streams.layout.batch_size // streams.ranks
        size = count // self.accumulate
        part = iter(streams if self.workers == 0 else self._processes(streams))
        # workers ignore signals, so they must be told to leave before multiprocessing waits for them at exit
        close = partial(_close, part)
        atexit.register(close)
        try:
            pids = [worker.pid for worker in getattr(part, "_workers", ())]
            with Oversight(pids, dead_after=self.dead_after, timeout=self.timeout) as oversight:
                while True:
                    with oversight.waiting():
                        shares = [_good(_next(part)) for _ in range(max(self.workers, 1))]
                    self.noted(step, shares)
                    step += 1
                    batch = join([cut(shares[worker].batch, *rows) for worker, *rows in pieces])
                    del shares  # else they stay in memory until the next ones are complete, and so does the batch
                    for start in range(0, count, size):
                        yield batch if size == count else cut(batch, start, start + size)
                    del batch
        finally:
            atexit.unregister(close)
            close()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module keeps the position. It tells Lightning that this loader can be resumed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, as above."""

    def _by_stream(self, streams: Reader) -> list[tuple[int, int, int]]:
        """The batch, ordered by stream, as pieces of the shares: worker, first sample, and the one after the last."""
        layout, readers = streams.layout, max(self.workers, 1)
        if readers == 1:
            return [(0, 0, layout.batch_size // streams.ranks)]  # its share is in order: joining would only copy it
        owned = {
            stream: (worker, place * layout.chunk, (place + 1) * layout.chunk)
            for worker in range(readers)
            for place, stream in enumerate(layout.deal(streams.rank + streams.ranks * worker, streams.ranks * readers))
        }
        return [owned[stream] for stream in sorted(owned)]

    def _processes(self, streams: Reader) -> DataLoader:
        return DataLoader(
            streams,
            batch_size=None,  # items are shares of a step already; they come in turn: worker 0, 1, ..., 0, 1, ...
            collate_fn=_as_it_is,
            num_workers=self.workers,
            prefetch_factor=2 if self.workers == 1 else 4,  # shares: parts of as many steps
            worker_init_fn=partial(_begin, os.getpid()),
            # a forked worker starts at once and needs no guard in the user's script; it touches neither CUDA nor Lightning
            multiprocessing_context="fork",
            generator=torch.Generator(),  # its own: starting workers must not draw from the run's random state
        )


def _next(part: Iterator[Share | SunlabError]) -> Share | SunlabError:
    """The next share. A worker that dies as it is asked for the memory of its tensors is told as torch tells any other's
    death."""
    try:
        return next(part)
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        workers = workers_of(part)
        for worker in workers:
            worker.join(1 / len(workers))  # it may be at its last
        dead = ", ".join(str(worker.pid) for worker in workers if not worker.is_alive())
        if not dead:
            raise
        raise RuntimeError(f"DataLoader worker (pid(s) {dead}) exited as it handed over a batch") from error


def _good(part: Share | SunlabError) -> Share:
    if isinstance(part, SunlabError):
        raise part
    return part


def _close(part: Any) -> None:
    """End the workers; one that is stuck or stopped has five seconds."""
    workers = workers_of(part)
    shut_down(part)
    for worker in workers:
        if worker.is_alive():
            worker.kill()
        clear(worker.pid)


def _as_it_is(item: Any) -> Any:
    return item


def _begin(parent: int, _worker: int) -> None:
    """A stop is agreed by the ranks at the end of a step; a worker that died of the same signal would break that step. The
    end of the training process is its own: it holds that one's connections to other ranks, who wait for their closing.

    A full garbage collection writes to the header of every object and would copy all pages that are shared with the training
    process, about 100 MiB a worker. Frozen objects are left out of it.
    """
    gc.freeze()
    die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
