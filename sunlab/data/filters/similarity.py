"""By the similarity of picture and caption."""

from typing import Any

from sunlab.data.fields import number
from sunlab.data.filters.base import FILTERS, Facts, Missing, Range


@FILTERS.register("similarity")
class Similarity(Range):
    """Captions that fit their pictures: CLIP's cosine similarity.

    Args:
        min, max: of the score, both included.
        missing: keep, drop or error.
    """

    def __init__(self, *, missing: Missing, min: float | None = 0.3, max: float | None = None):
        super().__init__(min=min, max=max, missing=missing)

    def value(self, facts: Facts) -> Any:
        return number(facts.record, "similarity")
