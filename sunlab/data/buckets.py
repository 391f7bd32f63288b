"""Aspect-ratio buckets: samples grouped by the shape of their pictures, so that little is cropped away."""

import math
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from sunlab.data.decode import image_size
from sunlab.data.manifest import Shard
from sunlab.data.opened import BadSample
from sunlab.data.remembered import Found, remembered
from sunlab.data.remote import Remote
from sunlab.data.scan import scan
from sunlab.data.tar import IMAGES


def shapes(size: int, step: int, longest: float = 2.0) -> list[tuple[int, int]]:
    """Widths and heights, multiples of `step`, of at most size x size pixels, none more than `longest` times as long as
    wide; from the tallest to the widest."""
    widths = range(step, size * size // step + 1, step)
    found = {(width, size * size // width // step * step) for width in widths}
    return sorted((w, h) for w, h in found if h >= step and max(w, h) <= longest * min(w, h))


def nearest(width: float, height: float, choices: Sequence[tuple[int, int]]) -> int:
    """The choice whose aspect ratio is nearest, by its logarithm."""
    ratio = math.log(width / height)
    return min(range(len(choices)), key=lambda i: (abs(math.log(choices[i][0] / choices[i][1]) - ratio), i))


def into_buckets(
    shards: Sequence[Shard], choices: Sequence[tuple[int, int]], remote: Remote, folder: Path
) -> list[list[Shard]]:
    """For each choice, the shards with the numbers of its samples. A sample whose picture cannot be opened goes with the
    first choice, and is found to be bad when its turn comes.

    Args:
        folder: where the sizes of all pictures, for which every shard is read once, are remembered.
    """
    name = sha256(repr([shard.identity() for shard in shards]).encode()).hexdigest()[:32]
    found = remembered(folder, f"sizes-{name}", lambda: _sizes(shards, remote))
    sizes = np.split(found.arrays["sizes"], found.arrays["ends"][:-1])
    ratios: dict[tuple[int, int], int] = {}
    buckets: list[list[Shard]] = [[] for _ in choices]
    for shard, table in zip(shards, sizes, strict=True):
        numbers = shard.numbers(0, len(shard))
        pairs = [tuple(pair) for pair in table[numbers].tolist()]
        own = np.array([ratios.setdefault(p, nearest(*p, choices)) if min(p) else 0 for p in pairs], np.int64)  # type: ignore[call-arg]
        for bucket in range(len(choices)):
            kept = numbers[own == bucket]
            if len(kept):
                buckets[bucket].append(replace(shard, kept=kept))
    return buckets


def _sizes(shards: Sequence[Shard], remote: Remote) -> Found:
    found, ends = [], []
    for shard in shards:
        for _, raw in scan(replace(shard, kept=None), remote, IMAGES):
            found.append(None if isinstance(raw, BadSample) else image_size(raw.members))
        ends.append(len(found))
    sizes = np.array([size or (0, 0) for size in found], np.int32).reshape(-1, 2)
    return Found({"sizes": sizes, "ends": np.array(ends)}, {})
