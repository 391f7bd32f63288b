"""Negative control on the lab: does a negative prompt keep what it names out of the picture?"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sunlab.evaluation.classifier import judge, load_classifier
from sunlab.packaged import asset
from sunlab.pipelines.draw import Request

MANIFEST = "emoji/noto/manifest.json"
PHRASES = {"background": "a {} background", "size": "a {} picture"}  # as the lab's captions name each alone
Draw = Callable[[Request], Tensor]
"""A way to draw: request -> pictures (B, 3, H, W) in [0, 1]."""


@dataclass(frozen=True)
class Control:
    """How often a thing is drawn when the negative prompt names it.

    Attributes:
        name: of the way to draw.
        attribute: what is named: background or size.
        named: share of pictures that show what their negative prompt names.
        empty: share of the pictures of the same prompts and seeds, with an empty negative prompt, that show the same.
        pictures: of each kind (N).
    """

    name: str
    attribute: str
    named: float
    empty: float
    pictures: int

    @property
    def suppressed(self) -> float:
        """The share of what would be shown that the negative prompt keeps out; NaN where nothing would be."""
        return 1 - self.named / self.empty if self.empty else float("nan")

    @property
    def sentence(self) -> str:
        return (
            f"{self.name}: the {self.attribute} named in the negative prompt is drawn in {self.named:.1%} of "
            f"{self.pictures} pictures; with an empty negative prompt in {self.empty:.1%}"
        )


@dataclass(frozen=True)
class Questions:
    """What every way to draw is asked: the same prompts and seeds, with an empty negative prompt and with others.

    Attributes:
        empty: prompts that name neither background nor size, with empty negative prompts.
        naming: by attribute, the same with negative prompts that name what the teacher draws where none is given.
        shown: by attribute, what those negative prompts name.
    """

    empty: Request
    naming: Mapping[str, Request]
    shown: Mapping[str, Sequence[str]]


def questions(teacher: Draw, pictures: int) -> Questions:
    """The questions whose answers tell most: the teacher draws each prompt, and its own background and size are then named.

    A negative prompt that names something the picture does not show has nothing to suppress.
    """
    subjects = json.loads(asset(MANIFEST).read_text())["subjects"]
    prompts = [subjects[(7 * i) % len(subjects)] for i in range(pictures)]
    seeds = [5000 + i for i in range(pictures)]
    empty = Request(prompts, [""] * pictures, seeds)
    shown = _shown(teacher(empty))
    naming = {
        attribute: Request(prompts, [phrase.format(value) for value in shown[attribute]], seeds)
        for attribute, phrase in PHRASES.items()
    }
    return Questions(empty, naming, shown)


def control_of(name: str, draw: Draw, asked: Questions) -> list[Control]:
    """The control of one way to draw, over each attribute."""
    without = _shown(draw(asked.empty))
    found = []
    for attribute, request in asked.naming.items():
        shown, named = _shown(draw(request))[attribute], asked.shown[attribute]
        shares = (_agreement(shown, named), _agreement(without[attribute], named))
        found.append(Control(name, attribute, *shares, len(named)))
    return found


def _shown(images: Tensor) -> dict[str, list[str]]:
    seen = judge(load_classifier(), images)
    return {attribute: [getattr(one, attribute) for one in seen] for attribute in PHRASES}


def _agreement(shown: Sequence[str], named: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(shown, named, strict=True)) / len(named)
