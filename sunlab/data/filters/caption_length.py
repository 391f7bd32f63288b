"""By the length of the caption."""

from typing import Any

from sunlab.data.filters.base import FILTERS, Facts, Missing, Range


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
