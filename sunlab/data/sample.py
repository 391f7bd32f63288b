"""A sample: undecoded (`Raw`), decoded (`Sample`), or unusable (`BadSample`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from sunlab.errors import DataError
from sunlab.types import Trajectory

Item = dict[str, Any]  # what the stages of a pipeline exchange, as in webdataset


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
        mask, words: of the tokens (L,) bool, see `Conditioning`, or None.
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
    mask: Tensor | None = None
    words: Tensor | None = None
    trajectory: Trajectory | None = None
    negative: str | None = None
    guidance: float | None = None
    base: int | None = None


class Raw(NamedTuple):
    """An undecoded sample: its key, and the bytes of its members by suffix."""

    key: str
    members: dict[str, bytes]


class BadSample(DataError):
    """A sample that cannot be used. `reason` is short and countable, `key` and `shard` say where it is."""

    def __init__(self, message: str, *, shard: str = "", key: str = "", reason: str = ""):
        super().__init__(message)
        self.shard, self.key, self.reason = shard, key, reason


Bad = Callable[[BadSample], None]  # called with each bad sample: raises it, or records it, and it is left out


def bad_sample(shard: str, key: str, reason: str, detail: str) -> BadSample:
    text = f"{shard}: sample {key!r}: {reason} ({detail}); rebuild the shard without it, or set on_error=quarantine"
    return BadSample(text, shard=shard, key=key, reason=reason)
