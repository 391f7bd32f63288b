"""Further parts of a report, after the tables of each base."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Section:
    """One part.

    Attributes:
        name: its key in the JSON.
        title, text: above the table.
        table: header and lines of cells.
        record: what the JSON tells, plain values.
        figures: PNG.
    """

    name: str
    title: str
    text: str
    table: Sequence[Sequence[str]]
    record: Any
    figures: Sequence[bytes] = field(default_factory=tuple, repr=False)


def png(figure: Figure) -> bytes:
    """The figure as a file's bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
