"""By any other field of the json."""

from typing import Any

from sunlab.data.fields import field, number
from sunlab.data.filters.base import FILTERS, Facts, Filter, Missing
from sunlab.errors import ConfigError


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
