"""95 % intervals from disjoint subsets, and paired comparison with a rival.

Nothing is resampled with replacement: a picture that occurs twice in a kernel sum or a covariance would bias it. A rival is
compared pair by pair, so that hard prompts count for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import stdev
from typing import Protocol, TypeVar

from torch import Tensor

# Student's t at 97.5 % for 1, 2, ... degrees of freedom; NIST, e-Handbook, 1.3.6.7.2
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120)
NORMAL = 1.960
LEAST = 8  # pairs in a subset


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of independent values, one a subset; NaN of fewer than two."""
    if len(values) < 2:
        return float("nan")
    t = T[len(values) - 2] if len(values) - 2 < len(T) else NORMAL
    return t * stdev(values) / sqrt(len(values))


def subsets_of(pairs: int, wanted: int) -> list[range]:
    """At most `wanted` disjoint, nearly equal ranges that cover all pairs; fewer where they would hold below `LEAST`."""
    count = max(1, min(wanted, pairs // LEAST))
    edges = [i * pairs // count for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


class Costed(Protocol):
    """A row of a table with its NFE a picture."""

    @property
    def nfe(self) -> float: ...


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
    """Of the guided rows, the one with the NFE of `row`; else with the next larger; None where none has as many."""
    above = [other for other in guided if other.nfe >= row.nfe and other is not row]
    return min(above, key=lambda other: other.nfe) if above else None
