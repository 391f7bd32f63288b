"""The LightningDataModule: from a source to each rank's batches, resumable by the optimizer step."""

import json
import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from sunlab.data.base import Source
from sunlab.data.filters.base import Dropped
from sunlab.data.loader import Loader
from sunlab.data.negatives import NegativeSampler, Pool, PromptDraws
from sunlab.data.positions import Positions
from sunlab.data.streams import Layout, Reader
from sunlab.errors import ConfigError
from sunlab.files import write_text
from sunlab.types import Samples

ENDLESS = 2**62  # samples of an epoch that never ends
FILTERED = "filters.json"
POOL = 4096  # captions and keywords that negative prompts may be drawn from


class DataModule(LightningDataModule):
    """Batches of `Samples`, endless over all epochs: training ends by `trainer.max_steps`.

    Which samples, prompts, negatives and seeds an optimizer step has is a function of (source, seed, batch_size, streams,
    step): not of ranks, workers, accumulation, or where a run was interrupted.

    Args:
        source: what is read.
        negatives: how negative prompts are drawn.
        batch_size: samples in one optimizer step, over all ranks and accumulated micro-batches.
        streams: virtual streams; a multiple of ranks x workers, and a divisor of batch_size.
        workers: loader processes of each rank; 0 reads in the training process.
        seed: of order and draws.
        caption_dropout: share of prompts replaced by the empty one.
        caption_noise: share of prompts replaced by the caption of another sample.
        accumulate: micro-batches in a step; None: the trainer's accumulate_grad_batches.
        timeout: seconds after which a worker that gives nothing ends the run; 0: never.
        dead_after: seconds after which one that is stopped does.
        epoch_samples: what counts as an epoch of a source in the order "stream"; None: training is one epoch.

    Raises:
        ConfigError: numbers that do not divide, with a remedy.
    """

    def __init__(
        self,
        source: Source,
        negatives: NegativeSampler,
        *,
        batch_size: int,
        streams: int = 8,
        workers: int = 0,
        seed: int = 0,
        caption_dropout: float = 0.0,
        caption_noise: float = 0.0,
        accumulate: int | None = None,
        timeout: float = 0.0,
        dead_after: float = 36.0,
        epoch_samples: int | None = None,
    ):
        super().__init__()
        self.source, self.negatives = source, negatives
        if source.order == "stream":
            self.layout = Layout(epoch_samples or ENDLESS, batch_size, streams)
        else:
            if epoch_samples is not None:
                raise ConfigError("data.epoch_samples: only for data in the order 'stream'; here an epoch is all samples")
            self.layout = Layout(len(source), batch_size, streams, tuple(len(part) for part in source.parts()))
        self.workers, self.seed, self.accumulate = workers, seed, accumulate
        self.caption_dropout, self.caption_noise = caption_dropout, caption_noise
        self.timeout, self.dead_after = timeout, dead_after
        PromptDraws(negatives, Pool(), seed, caption_dropout, caption_noise)  # checked now, before any weights load
        self._source = source.identity()
        self.positions = Positions(self.layout.streams)
        self._folder: Path | None = None
        self._resumed: int | None = None  # the step that a checkpoint gave, until the trainer's own count agrees

    def report_in(self, folder: Path) -> None:
        """Keep `quarantine.jsonl` (bad samples) and `filters.json` (what filters dropped) in the run's folder."""
        self._folder = folder
        self.source.quarantine_in(folder)

    def loader(self, *, rank: int = 0, ranks: int = 1) -> Loader:
        """The batches of one rank, for use without a Trainer too."""
        endless = self.source.order == "stream"
        pool = Pool() if endless else Pool(self.source.prompts(POOL), self.source.keywords(POOL))
        draws = PromptDraws(self.negatives, pool, self.seed, self.caption_dropout, self.caption_noise)

        def reader(step: int) -> Reader:
            cursors = self.positions.at(step) if endless else None
            return Reader(
                self.source, draws, self.layout, seed=self.seed, rank=rank, ranks=ranks, step=step, cursors=cursors
            )

        return Loader(
            reader,
            self.workers,
            self._accumulate(),
            self.step,
            self.timeout,
            self.dead_after,
            self.positions.note,
        )

    def train_dataloader(self) -> Loader:
        trainer = self.trainer
        assert trainer is not None
        notice = self.source.notice()
        if notice and trainer.is_global_zero:
            logging.getLogger("sunlab.data").warning(notice)
        if self._processed():  # else the trainer asks early, before it restores its counts
            self._align()
        return self.loader(rank=trainer.global_rank, ranks=trainer.world_size)

    def on_before_batch_transfer(self, batch: Samples, dataloader_idx: int) -> Samples:
        if self._resumed is not None and self.trainer is not None and self.trainer.training:
            self._align()
        return batch

    def teardown(self, stage: str) -> None:
        self._resumed = None  # the next fit with this object may be a run of its own

    def step(self) -> int:
        """Optimizer steps whose batches were trained on, not merely fetched ahead."""
        return self._processed() // self._accumulate() if self._resumed is None else self._resumed

    def epoch(self) -> int:
        """How often the data were gone through so far; 0 for an endless stream."""
        return self.step() // self.layout.steps

    def state_dict(self) -> dict[str, Any]:
        """The position. The first rank logs what the filters did until here, and writes it to the run's `filters.json`."""
        state, dropped = {"step": self.step(), **self._identity()}, self.source.dropped
        if self.source.order == "stream":
            state["cursors"], dropped = self.positions.gathered(self.step())
            state["filters"] = dropped.to_dict()
        first = self.trainer is None or self.trainer.is_global_zero
        if self._folder is not None and dropped is not None and dropped.seen and first:
            write_text(self._folder / FILTERED, json.dumps(dropped.report(), indent=2) + "\n")
            logging.getLogger("sunlab.data").info("step %d: %s", state["step"], dropped)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after `state`'s step. Raises `ConfigError` where another order would follow."""
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ConfigError(
                    f"data: the checkpoint was made with {name} = {state.get(name)}, this run has {value}: samples would be "
                    "lost or repeated; resume with the same, or start a new run from the checkpoint's weights"
                )
        self._resumed = int(state["step"])
        if self.source.order == "stream":
            self.positions.restore(self._resumed, state["cursors"], Dropped.from_dict(state.get("filters", {})))

    def _identity(self) -> dict[str, Any]:
        layout = self.layout
        return {
            "batch_size": layout.batch_size,
            "streams": layout.streams,
            "seed": self.seed,
            "samples": layout.samples,
            "source": self._source,
        }

    def _accumulate(self) -> int:
        trainers = None if self.trainer is None else self.trainer.accumulate_grad_batches
        if self.accumulate and trainers and trainers != self.accumulate:
            raise ConfigError(f"accumulate is {self.accumulate}, trainer.accumulate_grad_batches is {trainers}: drop one")
        return trainers or self.accumulate or 1

    def _processed(self) -> int:
        """Micro-batches that the trainer finished. It is counted up before the hooks in which checkpoints are saved."""
        if self.trainer is None:
            return 0
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.state_dict()["total"]["processed"])

    def _align(self) -> None:
        """Lightning resumes its count of micro-batches, and steps the optimizer where it divides by accumulate; a count
        saved within a step, or under another accumulate, is moved to the start of the step that comes next."""
        assert self.trainer is not None
        shift = self.step() * self._accumulate() - self._processed()
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        for tracker in (progress.total, progress.current):
            for name in ("ready", "started", "processed", "completed"):
                setattr(tracker, name, getattr(tracker, name) + shift)
        self._resumed = None
