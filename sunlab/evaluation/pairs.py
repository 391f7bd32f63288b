"""Random pairs of a prompt and a negative prompt, the same on every machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from sunlab.draws import keyed_seed
from sunlab.errors import ConfigError
from sunlab.files import read_text
from sunlab.pipelines.draw import Request

OTHER = 1_000_000_007  # added to a seed for another picture of the same pair


def random_pairs(prompts: Sequence[str], negative: Callable[[Random, str], str], count: int, *, seed: int) -> Request:
    """`count` pairs, each with a seed of its own; pair i is a function of (seed, i), so that a larger count adds pairs.

    Args:
        prompts: one is drawn for each pair.
        negative: (random, prompt) -> a negative prompt.

    Raises:
        ConfigError: no prompts.
    """
    if not prompts:
        raise ConfigError("evaluate.prompts: the source has no captions; give another, or evaluate.prompt_file")
    randoms = [Random(keyed_seed("evaluate", seed, i)) for i in range(count)]
    chosen = [random.choice(prompts) for random in randoms]
    negatives = [negative(random, prompt) for random, prompt in zip(randoms, chosen, strict=True)]
    return Request(chosen, negatives, [keyed_seed("evaluate", seed, i, "noise") for i in range(count)])


def other_seeds(request: Request) -> Request:
    """The same pairs with other noise."""
    return Request(request.prompts, request.negatives, [seed + OTHER for seed in request.seeds])


def lines_of(file: str | Path, key: str) -> list[str]:
    """The lines of a text file that are not empty. Raises `ConfigError`, naming `key`, where there is none."""
    path = Path(file)
    lines = [line.strip() for line in read_text(path).splitlines()] if path.is_file() else []
    if not any(lines):
        raise ConfigError(f"{key}: {path} is {'empty' if path.is_file() else 'not there'}; it holds one prompt a line")
    return [line for line in lines if line]
