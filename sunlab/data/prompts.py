"""What is drawn for each sample beside its pixels: the prompt or none, a negative prompt, and a seed."""

from dataclasses import dataclass
from random import Random

from sunlab.data.base import NegativeSampler, Pool, Sample
from sunlab.draws import keyed_seed
from sunlab.errors import ConfigError


@dataclass(frozen=True)
class Drawn:
    """The prompt and negative prompt of a sample in one epoch, and the seed of its other draws."""

    prompt: str
    negative: str
    seed: int


@dataclass(frozen=True)
class PromptDraws:
    """Draws that are functions of (seed, epoch, sample key) and of nothing else.

    Attributes:
        negatives, pool: how and from what negative prompts are drawn, where the sample has none of its own.
        seed: the run's.
        caption_dropout: share of prompts replaced by the empty one. A stored trajectory keeps its prompt, because its
            states were made with it.
    """

    negatives: NegativeSampler
    pool: Pool
    seed: int = 0
    caption_dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.caption_dropout <= 1:
            raise ConfigError(f"data.caption_dropout: {self.caption_dropout} is not a share between 0 and 1")

    def __call__(self, sample: Sample, epoch: int, pool: Pool | None = None) -> Drawn:
        """`pool`: instead of the own one."""
        seed = keyed_seed(self.seed, epoch, sample.key)
        negative = sample.negative
        if negative is None:
            negative = self.negatives(self._random(epoch, sample, "negative"), sample.prompt, pool or self.pool)
        dropped = sample.trajectory is None and self._random(epoch, sample, "dropout").random() < self.caption_dropout
        return Drawn("" if dropped else sample.prompt, negative, seed)

    def _random(self, epoch: int, sample: Sample, purpose: str) -> Random:
        return Random(keyed_seed(self.seed, epoch, sample.key, purpose))
