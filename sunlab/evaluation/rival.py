"""Which of two pictures is nearer to the one before? Paired, seed by seed, so that hard prompts count for both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor


class Costed(Protocol):
    """A row of a table with its U-Net passes a picture."""

    @property
    def passes(self) -> float: ...


Row = TypeVar("Row", bound=Costed)


@dataclass(frozen=True)
class Against:
    """A row beside its rival.

    Attributes:
        rival: its name.
        nearer: share of the pairs in which the row's picture is nearer to the one before; ties count half.
        difference: mean of (row's distance - rival's distance) over pairs: negative where the row is nearer.
        error: standard error of that mean.
        pairs: how many (N).
    """

    rival: str
    nearer: float
    difference: float
    error: float
    pairs: int

    @property
    def text(self) -> str:
        return f"nearer in {self.nearer:.0%}; {self.difference:+.4f} ± {self.error:.4f}"


def against(rival: str, distances: Tensor, rivals: Tensor) -> Against:
    """Args: the distances (N,) to the pictures before, of the row and of its rival, from the same pairs and seeds."""
    differences = distances.double() - rivals.double()
    count = len(differences)
    error = float(differences.std() / count**0.5) if count > 1 else float("nan")
    nearer = (differences < 0).double().mean() + (differences == 0).double().mean() / 2
    return Against(rival, float(nearer), float(differences.mean()), error, count)


def rival_of(row: Row, guided: Sequence[Row]) -> Row | None:
    """Of the guided rows, the one of as many passes as `row` spends; else of the fewest above; None where none is."""
    dearer = [other for other in guided if other.passes >= row.passes and other is not row]
    return min(dearer, key=lambda other: other.passes) if dearer else None
