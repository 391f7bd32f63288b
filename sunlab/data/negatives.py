"""What is drawn for a sample beside its pixels: the prompt, another one or none, a seed, and a negative prompt: none, one of
a list, another caption, keywords, or a mixture of these.

Text that is part of the sample's own prompt is not drawn: "a cat on a red background" without "red background" contradicts
itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from registry import Registry
from sunlab.data.sample import Sample
from sunlab.draws import keyed_seed
from sunlab.errors import ConfigError, DataError


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


NEGATIVES: Registry[NegativeSampler] = Registry(
    "negative-prompt sampler",
    base=NegativeSampler,
    entry_points="sunlab.negatives",
    components=("sunlab.data.negatives", "sunlab.lab.negatives"),
)


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
        caption_noise: share of prompts replaced by the caption of another sample, a random one of the source. A model
            trained so draws a mixture at guidance 1, as models trained on captions from the web do.
    """

    negatives: NegativeSampler
    pool: Pool
    seed: int = 0
    caption_dropout: float = 0.0
    caption_noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("caption_dropout", "caption_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"data.{name}: {getattr(self, name)} is not a share between 0 and 1")

    def __call__(self, sample: Sample, epoch: int, pool: Pool | None = None) -> Drawn:
        """`pool`: instead of the own one.

        Raises:
            DataError: captions or keywords are needed and the pool has none; noise of captions over stored embeddings.
        """
        pool = pool or self.pool
        seed = keyed_seed(self.seed, epoch, sample.key)
        prompt = sample.prompt if sample.trajectory is not None else self._prompt(sample, epoch, pool)
        negative = sample.negative
        if negative is None:
            negative = self.negatives(self._random(epoch, sample, "negative"), sample.prompt, pool)
        return Drawn(prompt, negative, seed)

    def _prompt(self, sample: Sample, epoch: int, pool: Pool) -> str:
        if self.caption_dropout and self._random(epoch, sample, "dropout").random() < self.caption_dropout:
            return ""
        if not self.caption_noise:
            return sample.prompt
        if sample.tokens is not None:
            raise DataError("data.caption_noise: the source stores embeddings of its own captions; use 0, or pictures")
        random = self._random(epoch, sample, "noise of captions")
        if random.random() >= self.caption_noise:
            return sample.prompt
        return random.choice(_some(pool.prompts, "captions", "data.caption_noise"))

    def _random(self, epoch: int, sample: Sample, purpose: str) -> Random:
        return Random(keyed_seed(self.seed, epoch, sample.key, purpose))


COMMON = (
    "blurry", "low quality", "worst quality", "jpeg artifacts", "noise", "watermark", "text", "signature", "cropped",
    "out of frame", "deformed", "bad anatomy", "extra limbs", "duplicate", "ugly", "oversaturated", "monochrome",
)  # fmt: skip
TRIES = 16  # random tries for a candidate that is not in the prompt


@NEGATIVES.register("empty")
class Empty(NegativeSampler):
    """Always the empty prompt."""

    def __call__(self, random: Random, prompt: str, pool: Pool) -> str:
        return ""


@NEGATIVES.register("pool")
class Prompts(NegativeSampler):
    """One of a list of negative prompts.

    Args:
        prompts: the list; null: common ones for photos.
    """

    def __init__(self, *, prompts: list[str] | None = None):
        self.prompts = tuple(COMMON if prompts is None else prompts)
        if not self.prompts:
            raise ConfigError("prompts of the negative pool: the list is empty; name some, or use negatives: empty")

    def __call__(self, random: Random, prompt: str, pool: Pool) -> str:
        return _other(random, self.prompts, prompt)


@NEGATIVES.register("captions")
class Captions(NegativeSampler):
    """The caption of another sample."""

    def __call__(self, random: Random, prompt: str, pool: Pool) -> str:
        return _other(random, _some(pool.prompts, "captions"), prompt)


@NEGATIVES.register("keywords")
class Keywords(NegativeSampler):
    """One to three keywords of the data, joined by commas."""

    def __call__(self, random: Random, prompt: str, pool: Pool) -> str:
        words = _some(pool.keywords, "keywords")
        drawn = [_other(random, words, prompt) for _ in range(random.randint(1, 3))]
        return ", ".join(dict.fromkeys(word for word in drawn if word))


@NEGATIVES.register("mixture")
class Mixture(NegativeSampler):
    """A mixture of empty, pool, captions and keywords, by weight.

    A kind that the data cannot give (LAION has no keywords) is passed over, and the others keep their proportions.

    Args:
        empty, pool, captions, keywords: weights, at least one above 0.
        prompts: the list of the pool, as in "pool".
    """

    def __init__(
        self,
        *,
        empty: float = 0.25,
        pool: float = 0.25,
        captions: float = 0.25,
        keywords: float = 0.25,
        prompts: list[str] | None = None,
    ):
        weights = (empty, pool, captions, keywords)
        if min(weights) < 0 or not 0 < sum(weights) < float("inf"):
            raise ConfigError(f"weights of the negative mixture are {weights}: none below 0 and one above 0, please")
        samplers = (Empty(), Prompts(prompts=prompts), Captions(), Keywords())
        self.parts = tuple((s, w) for s, w in zip(samplers, weights, strict=True) if w)

    def __call__(self, random: Random, prompt: str, pool: Pool) -> str:
        lacking = {Captions: not pool.prompts, Keywords: not pool.keywords}
        parts = [(sampler, weight) for sampler, weight in self.parts if not lacking.get(type(sampler))]
        if not parts:
            raise _lacking("captions or keywords")
        samplers, weights = zip(*parts, strict=True)
        chosen: NegativeSampler = random.choices(samplers, weights)[0]
        return chosen(random, prompt, pool)


def _other(random: Random, candidates: Sequence[str], prompt: str) -> str:
    """A random candidate that does not stand in `prompt`; empty where none is found in a few tries."""
    used: Callable[[str], bool] = prompt.lower().__contains__
    tries = (random.choice(candidates) for _ in range(TRIES))
    return next((one for one in tries if not used(one.lower())), "")


def _some(found: Sequence[str], what: str, use: str = "") -> Sequence[str]:
    if not found:
        raise _lacking(what, use)
    return found


def _lacking(what: str, use: str = "") -> DataError:
    if use:
        return DataError(f"{use}: the data source gives no {what}; use 0")
    return DataError(f"the data source gives no {what} for negative prompts; use negatives: pool or empty")
