"""Which text of a sample is its prompt: its caption, another field, several captions, or some of its keywords."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from sunlab.data.fields import field
from sunlab.errors import ConfigError

KEYWORDS = "keywords"


@dataclass(frozen=True)
class Captions:
    """A choice by weight, drawn from (seed, epoch, key).

    A field that a sample lacks is passed over, and the others keep their proportions.

    Attributes:
        weights: by field: "caption" is the .txt, or what the json calls a caption; "keywords" is up to `most` of the
            json's keywords in random order, joined by commas; any other is a field of the json, a text or a list of texts
            of which one is drawn.
        most: keywords in a prompt.

    Raises:
        ConfigError: weights that are none.
    """

    weights: Mapping[str, float]
    most: int = 5

    def __post_init__(self) -> None:
        values = list(self.weights.values())
        if not values or min(values) < 0 or not 0 < sum(values) < float("inf") or self.most < 1:
            raise ConfigError(
                f"captions: {dict(self.weights)} with {self.most} keywords: weights from 0 on, one above, please"
            )

    def choose(self, random: Random, caption: str | None, record: Mapping[str, Any]) -> str | None:
        """One prompt; None where the sample has none of the fields."""
        found = {name: self._texts(name, caption, record) for name, weight in self.weights.items() if weight}
        names = [name for name, texts in found.items() if texts]
        if not names:
            return None
        name = random.choices(names, [self.weights[name] for name in names])[0]
        texts = found[name]
        if name != KEYWORDS:
            return random.choice(texts)
        return ", ".join(random.sample(texts, random.randint(1, min(self.most, len(texts)))))

    def _texts(self, name: str, caption: str | None, record: Mapping[str, Any]) -> list[str]:
        value = caption if name == "caption" else field(record, name)
        values = value if isinstance(value, list) else [value]
        texts = (text.removeprefix("\ufeff").strip() for text in values if isinstance(text, str))
        return [text for text in texts if text]
