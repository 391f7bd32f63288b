"""95 % intervals from disjoint subsets. Nothing is resampled with replacement: a picture that stands in a kernel sum or a
covariance twice would bias it."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from statistics import stdev

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
