"""The contract of a text alignment: how well a picture shows what its prompt asks for."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from registry import Registry
from sunlab.evaluation.comparison import Value
from sunlab.evaluation.intervals import half_width, subsets_of


class Alignment(ABC):
    """A judge of pictures and their prompts, loaded when it is first asked."""

    @abstractmethod
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Values (B,) of each picture, by name; NaN where the prompt does not ask for what is judged.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Raises:
            ConfigError: what it needs is not there.
        """


def aligned(judged: dict[str, Tensor], *, subsets: int) -> dict[str, Value]:
    """The mean of each value over the pictures whose prompt asks for it, with a 95 % interval from disjoint subsets; a
    value that no prompt asks for is left out."""
    found = {}
    for name, values in judged.items():
        asked = values[~values.isnan()].double()
        if len(asked):
            parts = [float(asked[part.start : part.stop].mean()) for part in subsets_of(len(asked), subsets)]
            found[name] = Value(float(asked.mean()), half_width(parts), paired=False, pairs=len(asked))
    return found


ALIGNMENTS: Registry[Alignment] = Registry(
    "text alignment",
    base=Alignment,
    entry_points="sunlab.alignments",
    components=("sunlab.evaluation.clip_score", "sunlab.lab.alignment"),
)
