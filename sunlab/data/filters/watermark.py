"""By the probability of a watermark."""

from typing import Any

from sunlab.data.fields import number
from sunlab.data.filters.base import FILTERS, Facts, Missing, Range


@FILTERS.register("watermark")
class Watermark(Range):
    """Pictures that probably have no watermark: pwatermark, from 0 to 1.

    Args:
        min, max: of the score, both included.
        missing: keep, drop or error.
    """

    def __init__(self, *, missing: Missing, min: float | None = None, max: float | None = 0.8):
        super().__init__(min=min, max=max, missing=missing)

    def value(self, facts: Facts) -> Any:
        return number(facts.record, "watermark")
