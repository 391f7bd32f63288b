"""Aspect-ratio buckets of a stream: the shape of each step, and which samples of a window have it.

All streams have one plan of shapes, a function of the source, the seed and the window's number. So all samples of a step
have one shape, whatever ranks and dataloader workers read them, and micro-batches are cut as without buckets.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, islice
from random import Random
from typing import TYPE_CHECKING

from sunlab.data.cursor import Request
from sunlab.data.decode import facts_of, image_size
from sunlab.data.filters.base import Dropped
from sunlab.data.framing import nearest
from sunlab.data.stages.samples import raw_of

if TYPE_CHECKING:
    from sunlab.data.stream import Stream

SHARDS, SAMPLES = 8, 64  # that are looked at before training: shards, and samples of each


def mixture(stream: "Stream") -> tuple[int, ...]:
    """How many of the first samples of a few shards each shape fits best: in these proportions the shapes come. Bad samples,
    and those that the filters drop, do not count; where all are such, the shapes are equally frequent."""
    counts, dropped = [0] * len(stream.shapes), Dropped()
    picture = any(one.picture for _, one in stream.filters)
    for url in stream.urls[:: -(-len(stream.urls) // SHARDS)]:
        few = replace(stream, urls=[url], filters=(), inserted=(), shapes=())
        items = few.pipeline(Request(stream=0, passes=1, bad=lambda bad: None, last="verify"))
        for item in islice(items, SAMPLES):
            size = image_size(item)
            if size is not None and dropped.look(stream.filters, facts_of(raw_of(item), picture=picture), url):
                counts[nearest(*size, stream.shapes)] += 1
    return tuple(counts) if any(counts) else (1,) * len(counts)


def planned(mix: Sequence[int], groups: int, random: Random) -> list[int]:
    """The shape of each of some groups, in the proportions of `mix` and in random order."""
    ends, offset = list(accumulate(mix)), random.random()
    found = [min(bisect_right(ends, (group + offset) * ends[-1] / groups), len(mix) - 1) for group in range(groups)]
    random.shuffle(found)
    return found


def filled(plan: Sequence[int], sizes: Sequence[tuple[int, int]], order: Sequence[int], shapes: Sequence[tuple[int, int]],
           together: int) -> list[list[int]]:  # fmt: skip
    """Groups of `together` samples for the shapes of a plan. Each group takes samples that its shape fits best; samples that
    are left over fill the other groups by their aspect ratio, and have a little more cropped away.

    Args:
        plan: a shape for each group.
        sizes: width and height of each sample.
        order: in which samples of one shape are taken.
        shapes: of the buckets, from the tallest to the widest.

    Returns:
        The numbers of the samples of each group.
    """
    queues: list[list[int]] = [[] for _ in shapes]
    for index in order:
        queues[nearest(*sizes[index], shapes)].append(index)
    groups = []
    for shape in plan:
        groups.append(queues[shape][:together])
        del queues[shape][:together]
    rest = sorted(
        (index for queue in queues for index in queue), key=lambda index: (sizes[index][0] / sizes[index][1], index)
    )
    for _, group in sorted(zip(plan, groups, strict=True), key=lambda pair: pair[0]):
        lacking = together - len(group)
        group += rest[:lacking]
        del rest[:lacking]
    return groups
