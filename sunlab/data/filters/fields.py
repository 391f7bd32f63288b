"""Filters by a value of the json, the caption, or the size of the picture."""

from typing import Any

from sunlab.data.fields import field, number, text
from sunlab.data.filters.base import FILTERS, Facts, Filter, Missing, Range
from sunlab.errors import ConfigError

LABELS = {"UNLIKELY": 0.0, "UNSURE": 0.5, "NSFW": 1.0}  # LAION-400M's, and LAION-5B's first release


@FILTERS.register("aesthetic")
class Aesthetic(Range):
    """Pictures that LAION's aesthetic predictor likes: aesthetic, AESTHETIC_SCORE, ..., from 1 to 10.

    Args:
        min, max: of the score, both included.
        missing: keep, drop or error.
    """

    meaning = "aesthetic"

    def __init__(self, *, missing: Missing, min: float | None = 6.0, max: float | None = None):
        super().__init__(min=min, max=max, missing=missing)


@FILTERS.register("aspect_ratio")
class AspectRatio(Filter):
    """Pictures that are not too long: the longer side over the shorter.

    Args:
        max: of the ratio, included.
        missing: keep, drop or error.
    """

    picture = True

    def __init__(self, *, missing: Missing, max: float = 2.0):
        super().__init__(missing=missing)
        self.max = max

    def value(self, facts: Facts) -> Any:
        return None if facts.size is None or min(facts.size) <= 0 else max(facts.size) / min(facts.size)

    def keeps(self, value: Any) -> bool:
        return value <= self.max


@FILTERS.register("caption_length")
class CaptionLength(Range):
    """Captions whose length in characters lies in a range.

    Args:
        min, max: characters without surrounding space, both included.
        missing: keep, drop or error.
    """

    def __init__(self, *, missing: Missing, min: float | None = 5, max: float | None = 1000):
        super().__init__(min=min, max=max, missing=missing)

    def value(self, facts: Facts) -> Any:
        return None if facts.caption is None else len(facts.caption)


@FILTERS.register("json_field")
class JsonField(Filter):
    """A field of the json: a number in a range, or one of some values.

    Args:
        field: its name, at the top of the json.
        min, max: for a number, both included.
        allowed: for anything else: the values that are kept.
        missing: keep, drop or error.
    """

    def __init__(
        self,
        *,
        missing: Missing,
        field: str,
        min: float | None = None,
        max: float | None = None,
        allowed: list[str | int | bool] | None = None,
    ):
        super().__init__(missing=missing)
        if (allowed is None) == (min is None and max is None):
            raise ConfigError(f"filter json_field, field {field}: give either allowed, or min, max or both")
        self.field, self.min, self.max, self.allowed = field, min, max, allowed

    def value(self, facts: Facts) -> Any:
        return number(facts.record, self.field) if self.allowed is None else field(facts.record, self.field)

    def keeps(self, value: Any) -> bool:
        if self.allowed is not None:
            return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in self.allowed)
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


@FILTERS.register("language")
class Language(Filter):
    """Captions in some languages, by the json's LANGUAGE or language. LAION-2B-en has no such field, LAION-2B-multi has.

    Args:
        allowed: codes, such as [en, de]; capitals do not matter.
        missing: keep, drop or error.
    """

    def __init__(self, *, missing: Missing, allowed: list[str]):
        super().__init__(missing=missing)
        if not allowed:
            raise ConfigError("filter language: allowed is empty; name a language, such as [en]")
        self.allowed = tuple(code.lower() for code in allowed)

    def value(self, facts: Facts) -> Any:
        code = text(facts.record, "language")
        return code and code.lower()

    def keeps(self, value: Any) -> bool:
        return value in self.allowed


@FILTERS.register("nsfw")
class Nsfw(Filter):
    """Pictures that are probably safe: punsafe from 0 to 1, or LAION's older labels UNLIKELY 0, UNSURE 0.5 and NSFW 1.

    Args:
        max: of the probability, included.
        missing: keep, drop or error.
    """

    def __init__(self, *, missing: Missing, max: float = 0.1):
        super().__init__(missing=missing)
        self.max = max

    def value(self, facts: Facts) -> Any:
        label = field(facts.record, "nsfw")
        return LABELS.get(label.upper()) if isinstance(label, str) else number(facts.record, "nsfw")

    def keeps(self, value: Any) -> bool:
        return value <= self.max


@FILTERS.register("similarity")
class Similarity(Range):
    """Captions that fit their pictures: CLIP's cosine similarity.

    Args:
        min, max: of the score, both included.
        missing: keep, drop or error.
    """

    meaning = "similarity"

    def __init__(self, *, missing: Missing, min: float | None = 0.3, max: float | None = None):
        super().__init__(min=min, max=max, missing=missing)


@FILTERS.register("size")
class Size(Range):
    """Pictures whose shorter side, in pixels, lies in a range.

    The original size counts where the json has it (WIDTH and HEIGHT, original_width and original_height), else the stored
    picture's.

    Args:
        min, max: of the shorter side, both included.
        missing: keep, drop or error.
    """

    picture = True

    def __init__(self, *, missing: Missing, min: float | None = 512, max: float | None = None):
        super().__init__(min=min, max=max, missing=missing)

    def value(self, facts: Facts) -> Any:
        return None if facts.size is None else min(facts.size)


@FILTERS.register("watermark")
class Watermark(Range):
    """Pictures that probably have no watermark: pwatermark, from 0 to 1.

    Args:
        min, max: of the score, both included.
        missing: keep, drop or error.
    """

    meaning = "watermark"

    def __init__(self, *, missing: Missing, min: float | None = None, max: float | None = 0.8):
        super().__init__(min=min, max=max, missing=missing)
