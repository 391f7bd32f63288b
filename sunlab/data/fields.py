"""The names that datasets give to the same thing, one meaning in many spellings; and which text is the prompt.

The columns of LAION-400M and LAION-5B are in capitals (URL, TEXT, WIDTH, HEIGHT, LICENSE, NSFW, LANGUAGE), their later
scores in small letters (similarity, hash, punsafe, pwatermark, aesthetic; AESTHETIC_SCORE in laion-improved-aesthetics);
Re-LAION and what img2dataset writes are in small letters throughout (url, caption, width, height, original_width, ...).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from sunlab.errors import ConfigError

NAMES: dict[str, tuple[str, ...]] = {
    "caption": ("caption", "TEXT", "text", "top_caption", "alt_text", "prompt"),
    "aesthetic": ("aesthetic", "AESTHETIC_SCORE", "aesthetic_score", "aesthetics", "laion_aesthetic", "prediction"),
    "watermark": ("pwatermark", "watermark", "WATERMARK", "p_watermark", "watermark_score"),
    "nsfw": ("punsafe", "p_unsafe", "nsfw_score", "NSFW", "nsfw"),
    "similarity": ("similarity", "SIMILARITY", "clip_similarity", "clip_score", "clip_similarity_vitb32"),
    "language": ("LANGUAGE", "language", "lang"),
    "width": ("original_width", "WIDTH", "width"),
    "height": ("original_height", "HEIGHT", "height"),
    "keywords": ("keywords", "tags"),
}


def field(record: Mapping[str, Any], meaning: str) -> Any:
    """The first of its spellings that has a value; None where none has. Missing, null, NaN and "" are no values, nor is
    what is not a number or text."""
    for name in NAMES.get(meaning, (meaning,)):
        value = record.get(name)
        if not (value is None or value == "" or (isinstance(value, float) and math.isnan(value))):
            return value
    return None


def number(record: Mapping[str, Any], meaning: str) -> float | None:
    """As `field`, for a number; text that reads as one is taken, anything else is missing."""
    value = field(record, meaning)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(found) else found


def text(record: Mapping[str, Any], meaning: str) -> str | None:
    """As `field`, for text."""
    value = field(record, meaning)
    return value.removeprefix("\ufeff") if isinstance(value, str) else None


KEYWORDS = "keywords"


@dataclass(frozen=True)
class Captions:
    """A choice by weight, drawn from (seed, epoch, key).

    A field that a sample lacks is passed over, and the others keep their proportions.

    Attributes:
        weights: by field: "caption" is the .txt, or what the json calls a caption; "keywords" is up to `most` of the
            json's keywords in random order, joined by commas; any other is a field of the json, a text or a list of texts
            of which one is drawn.
        most: keywords in a prompt.

    Raises:
        ConfigError: weights that are none.
    """

    weights: Mapping[str, float]
    most: int = 5

    def __post_init__(self) -> None:
        values = list(self.weights.values())
        if not values or min(values) < 0 or not 0 < sum(values) < float("inf") or self.most < 1:
            raise ConfigError(
                f"captions: {dict(self.weights)} with {self.most} keywords: weights from 0 on, one above, please"
            )

    def choose(self, random: Random, caption: str | None, record: Mapping[str, Any]) -> str | None:
        """One prompt; None where the sample has none of the fields."""
        found = {name: self._texts(name, caption, record) for name, weight in self.weights.items() if weight}
        names = [name for name, texts in found.items() if texts]
        if not names:
            return None
        name = random.choices(names, [self.weights[name] for name in names])[0]
        texts = found[name]
        if name != KEYWORDS:
            return random.choice(texts)
        return ", ".join(random.sample(texts, random.randint(1, min(self.most, len(texts)))))

    def _texts(self, name: str, caption: str | None, record: Mapping[str, Any]) -> list[str]:
        value = caption if name == "caption" else field(record, name)
        values = value if isinstance(value, list) else [value]
        texts = (text.removeprefix("\ufeff").strip() for text in values if isinstance(text, str))
        return [text for text in texts if text]
