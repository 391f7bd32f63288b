"""The contract of a data source."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from registry import Registry
from sunlab.data.cursor import Cursor, Range, Request
from sunlab.data.filters.base import Dropped
from sunlab.data.pipeline import Pipeline
from sunlab.data.sample import Item, Sample
from sunlab.data.stages.samples import finished
from sunlab.errors import ConfigError


class Source(ABC):
    """A finite set of samples with an order for every epoch.

    Which samples stand in a range of positions is a function of (seed, epoch, start, stop) and the source alone, ranges
    that do not overlap share no sample, and so ranks and workers can share the work in any way.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Samples in an epoch."""

    @abstractmethod
    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        """The samples at positions start ... stop - 1 of the epoch's order, in an order of the range's own (a shuffle
        buffer stays inside it); the first `skip` of them are left out, cheaply: nothing is decoded for them.

        Raises:
            DataError: naming the shard and the sample.
        """

    order: Literal["exact", "stream"] = "exact"

    def pipeline(self, **given: Any) -> Pipeline:
        """An ordinary `webdataset.DataPipeline` of one stream, by which it is trained on. Its items are dictionaries with a
        `Sample` under `sample` and the `Cursor` after it under `__cursor__`.

        Args:
            given: the fields of `sunlab.data.cursor.Request`.
        """
        request = Request(**given)
        read = partial(self._epochs, Range.of(request, len(self)), request.seed)
        return Pipeline([("read", read), *finished(request)], last=request.last)

    def _epochs(self, range: Range, seed: int) -> Iterator[Item]:
        """Read a stream's range of each epoch."""
        for epoch in range.epochs():
            skip = range.skip if epoch == range.epoch else 0
            found = self.read(seed=seed, epoch=epoch, start=range.start, stop=range.stop, skip=skip)
            for offset, sample in enumerate(found, skip + 1):
                yield {"__epoch__": epoch, "__cursor__": Cursor(epoch=epoch, offset=offset), "sample": sample}

    @property
    def dropped(self) -> Dropped | None:
        """What filters dropped of the epoch, in the order "exact"; None: there are none, or samples are not counted."""
        return None

    def sound(self, *, start: int, stop: int) -> Iterator[Sample]:
        """The samples at positions start ... stop - 1 of the first epoch. Bad ones are left out, without stand-ins, if the
        source quarantines them. Data that are made once are made from these."""
        return self.read(seed=0, epoch=0, start=start, stop=stop)

    def quarantine_in(self, folder: Path) -> None:  # noqa: B027 -- nothing to do for most
        """Write bad samples down in the run's folder, where they are left out."""

    def parts(self) -> Sequence["Source"]:
        """Sources whose samples may share a batch, together all of this one: one an aspect ratio, where it has buckets."""
        return (self,)

    def notice(self) -> str | None:
        """A warning that is logged once before training, or None."""
        return None

    def identity(self) -> str | None:
        """What a resumed run's source must have in common with the one before, cheap to tell; None: nothing is known."""
        return None

    def fingerprint(self) -> str:
        """Identity of the samples, by which a cache of latents is found again. Raises `ConfigError` where the source
        has none and so cannot be cached."""
        raise ConfigError(f"{type(self).__name__} has no fingerprint, so its latents cannot be cached: set data.cache=null")

    def prompts(self, limit: int) -> Sequence[str]:
        """Up to `limit` captions, in an order of the source's own: the pool of "captions of other images"."""
        return ()

    def keywords(self, limit: int) -> Sequence[str]:
        """Up to `limit` distinct keywords."""
        return ()

    holds_images: bool = True
    """Whether its samples are pictures, of which `data.cache` can keep the latents."""

    reads_shards: ClassVar[bool] = False
    """Whether it takes the parameters of the source `shards`, so that `sunlab doctor data` can look at its samples."""

    @property
    def stored_nfe(self) -> int:
        """Network evaluations that its samples cost when they were made."""
        return 0

    def require_origin(self, *, teacher: Callable[[], str], encoders: Callable[[], str]) -> None:  # noqa: B027
        """Raise `DataError` if what is stored was made by another pretrained model. For pictures any will do.

        Args:
            teacher: identity of the whole model; it takes a while.
            encoders: identity of its text encoders and autoencoder.
        """


SOURCES: Registry[Source] = Registry(
    "data source",
    base=Source,
    entry_points="sunlab.sources",
    components=(
        "sunlab.data.shards",
        "sunlab.data.trajectories",
        "sunlab.data.latents",
        "sunlab.data.prompt_files",
        "sunlab.data.hf_dataset",
    ),
)
