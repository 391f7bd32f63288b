"""The names that datasets give to the same thing: one meaning, many spellings.

The columns of LAION-400M and LAION-5B are in capitals (URL, TEXT, WIDTH, HEIGHT, LICENSE, NSFW, LANGUAGE), their later
scores in small letters (similarity, hash, punsafe, pwatermark, aesthetic; AESTHETIC_SCORE in laion-improved-aesthetics);
Re-LAION and what img2dataset writes are in small letters throughout (url, caption, width, height, original_width, ...).
"""

import math
from collections.abc import Mapping
from typing import Any

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
