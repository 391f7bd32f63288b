"""By how unsafe a picture is said to be."""

from typing import Any

from sunlab.data.fields import field, number
from sunlab.data.filters.base import FILTERS, Facts, Filter, Missing

LABELS = {"UNLIKELY": 0.0, "UNSURE": 0.5, "NSFW": 1.0}  # LAION-400M's, and LAION-5B's first release


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
