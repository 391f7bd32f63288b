"""By LAION's aesthetic score."""

from typing import Any

from sunlab.data.fields import number
from sunlab.data.filters.base import FILTERS, Facts, Missing, Range


@FILTERS.register("aesthetic")
class Aesthetic(Range):
    """Pictures that LAION's aesthetic predictor likes: aesthetic, AESTHETIC_SCORE, ..., from 1 to 10.

    Args:
        min, max: of the score, both included.
        missing: keep, drop or error.
    """

    def __init__(self, *, missing: Missing, min: float | None = 6.0, max: float | None = None):
        super().__init__(min=min, max=max, missing=missing)

    def value(self, facts: Facts) -> Any:
        return number(facts.record, "aesthetic")
