"""Errors that name the key, the value, the nearest alternative, and all known names."""

from collections.abc import Iterable
from difflib import get_close_matches


class RegistryError(ValueError):
    """A wrong component name, parameter or plugin. `key` is the configuration key that named it."""

    def __init__(self, message: str, *, key: str | None = None):
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key


def suggestion(word: str, known: Iterable[str], *, noun: str = "known") -> str:
    """`did you mean 'msc'? known: cfg, msc`, without the question where nothing is near.

    >>> suggestion("mcs", ["cfg", "msc"])
    "did you mean 'msc'? known: cfg, msc"
    """
    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.5)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}{noun}: {', '.join(names) or 'none'}"
