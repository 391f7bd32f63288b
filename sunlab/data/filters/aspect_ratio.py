"""By the shape of a picture."""

from typing import Any

from sunlab.data.filters.base import FILTERS, Facts, Filter, Missing


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
