"""Negative control: does a negative prompt keep what it names out of the picture?"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from registry import Registry
from sunlab.pipelines.draw import Request

Draw = Callable[[Request], Tensor]
"""A way to draw: request -> pictures (B, 3, H, W) in [0, 1]."""


@dataclass(frozen=True)
class Control:
    """How often a thing is drawn when the negative prompt names it.

    Attributes:
        name: of the way to draw.
        attribute: what is named, a background for instance.
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
    """The same prompts and seeds for every way to draw, with an empty negative prompt and with others.

    Attributes:
        empty: prompts that leave the attributes open, with empty negative prompts.
        naming: by attribute, the same with negative prompts that name what the teacher draws where none is given.
        shown: by attribute, what those negative prompts name.
    """

    empty: Request
    naming: Mapping[str, Request]
    shown: Mapping[str, Sequence[str]]


class NegativeControl(ABC):
    """Prompts that leave attributes open, and a judge of which value of each attribute a picture shows.

    A negative prompt that names something the picture does not show has nothing to suppress, so that the teacher draws each
    prompt first, and its own pictures are named.
    """

    @property
    @abstractmethod
    def attributes(self) -> Sequence[str]:
        """Names of the attributes, such as `background`."""

    @abstractmethod
    def prompts(self) -> tuple[Sequence[str], Sequence[int]]:
        """Prompts that name no attribute, and a seed for each."""

    @abstractmethod
    def negative(self, attribute: str, value: str) -> str:
        """The negative prompt that names a value of an attribute."""

    @abstractmethod
    def shown(self, images: Tensor) -> Mapping[str, Sequence[str]]:
        """By attribute, the value that each picture shows.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Raises:
            DataError: the judge's weights cannot be read.
        """

    def questions(self, teacher: Draw) -> Questions:
        """The teacher draws each prompt; what it shows is then named in negative prompts."""
        prompts, seeds = self.prompts()
        empty = Request(prompts, [""] * len(prompts), seeds)
        shown = self.shown(teacher(empty))
        naming = {
            name: Request(prompts, [self.negative(name, value) for value in shown[name]], seeds) for name in self.attributes
        }
        return Questions(empty, naming, shown)

    def measure(self, name: str, draw: Draw, questions: Questions) -> list[Control]:
        """The control of one way to draw, over each attribute."""
        without = self.shown(draw(questions.empty))
        found = []
        for attribute, request in questions.naming.items():
            named, shown = questions.shown[attribute], self.shown(draw(request))[attribute]
            shares = (_agreement(shown, named), _agreement(without[attribute], named))
            found.append(Control(name, attribute, *shares, len(named)))
        return found


def _agreement(shown: Sequence[str], named: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(shown, named, strict=True)) / len(named)


CONTROLS: Registry[NegativeControl] = Registry(
    "negative control",
    base=NegativeControl,
    entry_points="sunlab.controls",
    components=("sunlab.lab.control",),
)
