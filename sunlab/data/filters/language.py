"""By the language of the caption."""

from typing import Any

from sunlab.data.fields import text
from sunlab.data.filters.base import FILTERS, Facts, Filter, Missing
from sunlab.errors import ConfigError


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
