"""The contract of a filter."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from registry import Registry
from sunlab.data.fields import number
from sunlab.errors import ConfigError

Missing = Literal["keep", "drop", "error"]


@dataclass(frozen=True)
class Facts:
    """What is known of a sample before its picture is decoded.

    Attributes:
        key: of the sample.
        caption: its caption; None where it has none.
        record: the json beside it.
        picture: width and height of the picture as it is shown (EXIF orientation applied), where `Filter.picture` says
            that they are needed; None: there is no picture that can be opened.
    """

    key: str
    caption: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    picture: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[float, float] | None:
        """Width and height: the original's by the json, turned as the picture is, else the picture's own."""
        width, height = number(self.record, "width"), number(self.record, "height")
        if width is None or height is None:
            return self.picture
        turned = self.picture is not None and (width - height) * (self.picture[0] - self.picture[1]) < 0
        return (height, width) if turned else (width, height)


class Filter(ABC):
    """Keeps a sample or drops it, by one value.

    Args:
        missing: what becomes of a sample that has no such value: keep it, drop it, or stop. It has no default, so that it
            is decided by who trains.
    """

    picture: ClassVar[bool] = False  # whether the picture's size is looked at, so that its header must be read

    def __init__(self, *, missing: Missing):
        self.missing = missing

    @abstractmethod
    def value(self, facts: Facts) -> Any:
        """What is looked at; None where the sample does not say."""

    @abstractmethod
    def keeps(self, value: Any) -> bool:
        """Whether a sample with this value is trained on."""


class Range(Filter):
    """A number that must lie in a range, both ends included."""

    def __init__(self, *, min: float | None, max: float | None, missing: Missing):
        super().__init__(missing=missing)
        if (min is None and max is None) or (min is not None and max is not None and min > max):
            raise ConfigError(f"a filter's range from {min} to {max} is none: give min, max, or both in order")
        self.min, self.max = min, max

    def keeps(self, value: Any) -> bool:
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


FILTERS: Registry[Filter] = Registry(
    "filter",
    base=Filter,
    entry_points="sunlab.filters",
    components=tuple(
        f"sunlab.data.filters.{name}"
        for name in (
            *("aesthetic", "aspect_ratio", "caption_length", "json_field", "language", "nsfw", "similarity", "size"),
            "watermark",
        )
    ),
)
