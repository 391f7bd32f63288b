"""The contracts of a data source and of a negative-prompt sampler."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from registry import Registry
from sunlab.errors import ConfigError
from sunlab.types import Trajectory

if TYPE_CHECKING:
    from sunlab.data.pipeline import Pipeline
    from sunlab.data.selection import Dropped


@dataclass(frozen=True)
class Sample:
    """One sample, as a source yields it.

    Attributes:
        key: unique in the source.
        prompt: the caption.
        record: the json beside it: LAION's fields, keywords, ...
        image: (3, H, W) uint8, or None.
        crop: original height and width, top and left of the crop, its height and width, in pixels; None: not cropped.
        latent: (C, h, w) scaled, or None.
        tokens, pooled: the prompt's embedding (L, d) and (p,), where it was computed ahead, or None.
        trajectory: stored teacher states (1, T, C, h, w), or None.
        negative: the negative prompt, where the source fixes it (stored trajectories).
        guidance: the guidance scale, where the source fixes it.
        base: number in `model.bases` of the network that it is for, or None: any.
    """

    key: str
    prompt: str
    record: Mapping[str, Any] = field(default_factory=dict)
    image: Tensor | None = None
    crop: tuple[int, ...] | None = None
    latent: Tensor | None = None
    tokens: Tensor | None = None
    pooled: Tensor | None = None
    trajectory: Trajectory | None = None
    negative: str | None = None
    guidance: float | None = None
    base: int | None = None


# of `Source.pipeline`: its arguments, and what they are where they are not given
PIPELINE: dict[str, Any] = {
    "seed": 0,
    "streams": 1,
    "stream": None,
    "start": None,
    "draws": None,
    "together": 1,
    "batch": None,
    "passes": None,
    "tally": None,
    "last": None,
}


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

    def pipeline(self, **given: Any) -> "Pipeline":
        """An ordinary `webdataset.DataPipeline` of one stream; sources whose `order` is "stream" are trained on by it. Its
        items are dictionaries with a `Sample` under `sample` and the `Cursor` after it under `__cursor__`.

        Args:
            seed: of the order and of what is drawn.
            streams: of the training, over all ranks and dataloader workers.
            stream: which one; None: that of this process, as webdataset splits by node and worker.
            start: `Cursor` where it goes on; None: the beginning.
            draws: `PromptDraws` of prompts and negative prompts, under `drawn`; None: none.
            together: neighbours that have one shape, where there are aspect-ratio buckets.
            batch: `Samples` of so many instead of items.
            passes: over all shards; None: without end.
            tally: `Tally` of what was read.
            last: name of the stage after which it ends; None: all.

        Raises:
            ConfigError: the source has no such order.
        """
        raise ConfigError(f"{type(self).__name__} has no order 'stream'")

    @property
    def shaped(self) -> bool:
        """Whether a stream's pictures have several shapes, of which neighbours share one."""
        return False

    @property
    def dropped(self) -> "Dropped | None":
        """What filters dropped of the epoch, in the order "exact"; None: there are none, or samples are not counted."""
        return None

    @property
    def window(self) -> int | None:
        """Samples in the shuffle buffer; None: the source has none."""
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
        """What whoever trains on it should be told once, or None."""
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


@dataclass(frozen=True)
class Pool:
    """What a negative-prompt sampler may draw on besides its own configuration."""

    prompts: Sequence[str] = ()
    keywords: Sequence[str] = ()


class NegativeSampler(ABC):
    """Chooses the negative prompt of a sample."""

    @abstractmethod
    def __call__(self, random: Random, prompt: str, pool: Pool) -> str:
        """Args: random, keyed by (seed, epoch, key); prompt, the sample's own; pool, other captions and keywords."""


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
NEGATIVES: Registry[NegativeSampler] = Registry(
    "negative-prompt sampler",
    base=NegativeSampler,
    entry_points="sunlab.negatives",
    components=("sunlab.data.negatives", "sunlab.lab.negatives"),
)
