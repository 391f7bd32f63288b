"""Negative control on the lab: does a negative prompt keep its background out of the picture?"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sunlab.evaluation.backgrounds import background_of, palette
from sunlab.pipelines.base import ASSETS, BaseModel
from sunlab.pipelines.compare import Variant
from sunlab.pipelines.draw import Request, draw

SHARDS = ASSETS / "emoji" / "noto"


@dataclass(frozen=True)
class Control:
    """How often the background that the negative prompt names is drawn.

    Attributes:
        name: of the variant.
        named: share of pictures with the background that their negative prompt names.
        empty: the same share for the same prompts and seeds with an empty negative prompt.
        pictures: how many of each.
    """

    name: str
    named: float
    empty: float
    pictures: int

    @property
    def suppressed(self) -> float:
        """By how much the negative prompt lowers the share."""
        return self.empty - self.named

    @property
    def sentence(self) -> str:
        return (
            f"{self.name}: the background named in the negative prompt is drawn in {self.named:.1%} of "
            f"{self.pictures} pictures; with an empty negative prompt in {self.empty:.1%}"
        )


def negative_control(base: BaseModel, variants: Sequence[Variant], *, pictures: int = 64) -> list[Control]:
    """The control of each variant."""

    def drawn_by(variant: Variant) -> Callable[[Request], Tensor]:
        return lambda request: draw(base, variant.sampling, variant.bind, request, w=variant.w).images

    return [control_of(variant.name, drawn_by(variant), pictures) for variant in variants]


def control_of(name: str, drawn: Callable[[Request], Tensor], pictures: int) -> Control:
    """Prompts without a background, negative prompts that name one, every colour as often.

    Args:
        name: of the variant.
        drawn: its pictures (B, 3, H, W) of a request.
        pictures: of each kind.
    """
    colours = palette(SHARDS / "manifest.json")
    names = list(colours)
    subjects = json.loads((SHARDS / "manifest.json").read_text())["subjects"]
    prompts = [subjects[(7 * i) % len(subjects)] for i in range(pictures)]
    named = [names[i % len(names)] for i in range(pictures)]
    seeds = [5000 + i for i in range(pictures)]
    shares = []
    for negatives in ([f"a {colour} background" for colour in named], [""] * pictures):
        backgrounds = background_of(drawn(Request(prompts, negatives, seeds)), colours)
        shares.append(sum(a == b for a, b in zip(backgrounds, named, strict=True)) / pictures)
    return Control(name, shares[0], shares[1], pictures)
