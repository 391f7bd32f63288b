"""By the shape of a picture."""

from typing import Any

from sunlab.data.fields import number
from sunlab.data.filters.base import FILTERS, Facts, Filter, Missing


@FILTERS.register("aspect_ratio")
class AspectRatio(Filter):
    """Pictures that are not too long: the longer side over the shorter.

    Args:
        max: of the ratio, included.
        missing: keep, drop or error.
    """

    def __init__(self, *, missing: Missing, max: float = 2.0):
        super().__init__(missing=missing)
        self.max = max

    def value(self, facts: Facts) -> Any:
        width, height = number(facts.record, "width"), number(facts.record, "height")
        if width is None or height is None or min(width, height) <= 0:
            return None
        return max(width, height) / min(width, height)

    def keeps(self, value: Any) -> bool:
        return value <= self.max
