"""What a picture of the lab shows: its background, its size, and which emoji, judged against the shards' own artwork."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sunlab.data.base import Sample, Source
from sunlab.evaluation.backgrounds import background_of

BATCH = 64  # pictures compared at once


@dataclass(frozen=True)
class Seen:
    """What was recognised.

    Attributes:
        background, size, emoji: of the nearest artwork.
        nearest: names of the nearest distinct emoji, nearest first.
    """

    background: str
    size: str
    emoji: str
    nearest: tuple[str, ...]


class EmojiClassifier:
    """Nearest artwork, in squared pixel distance, among all emoji and sizes on the background that the rim shows.

    Args:
        source: shards with every combination that may be drawn.
        colours: the palette.
    """

    def __init__(self, source: Source, colours: dict[str, tuple[int, int, int]]):
        self.colours = colours
        samples = list(source.read(seed=0, epoch=0, start=0, stop=len(source)))
        self._images = torch.stack([s.image for s in samples if s.image is not None]).flatten(1)  # uint8
        self._facts = [(attribute(s, "background"), attribute(s, "size"), str(s.record["name"])) for s in samples]
        names = [background for background, _, _ in self._facts]
        self._on = {c: [i for i, background in enumerate(names) if background == c] for c in colours}

    @property
    def names(self) -> set[str]:
        """All emoji that it knows."""
        return {name for _, _, name in self._facts}

    def __call__(self, images: Tensor, *, top: int = 5) -> list[Seen]:
        """Judge pictures (B, 3, H, W) in [0, 1]."""
        seen: list[Seen] = []
        for image, background in zip(images.cpu(), background_of(images, self.colours), strict=True):
            rows = self._on[background]
            distance = (self._images[rows].float() / 255 - image.flatten()).square().sum(1)
            order = [self._facts[rows[i]] for i in distance.argsort()[: 4 * top].tolist()]
            nearest = tuple(dict.fromkeys(name for _, _, name in order))[:top]
            seen.append(Seen(background, order[0][1], order[0][2], nearest))
        return seen


def attribute(sample: Sample, name: str) -> str:
    """A drawn attribute of an emoji sample."""
    return str(sample.record["attributes"][name])


def share(right: Sequence[bool]) -> float:
    """The share that is right; NaN of none."""
    return sum(right) / len(right) if right else float("nan")
