"""By the size of a picture."""

from typing import Any

from sunlab.data.filters.base import FILTERS, Facts, Missing, Range


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
