"""The shuffle of a stream: windows of samples, each in an order of its own.

A window is read, put in an order keyed by (seed, stream, window), and handed out while the next one fills. So a position in
the stream is where its window begins and how many of the window's samples are gone (`Cursor`). Reading one window again
brings everything back: the order, the captions that may be negative prompts, and the groups of one shape.

Aspect-ratio buckets have one plan of shapes for all streams, a function of the source, the seed and the window's number. So
all samples of a step have one shape, whatever ranks and dataloader workers read them.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, islice
from random import Random
from typing import Any

from sunlab.data.cursor import Cursor
from sunlab.data.decode import image_size, texts
from sunlab.data.framing import nearest
from sunlab.data.negatives import Pool
from sunlab.data.sample import Item, Raw
from sunlab.draws import keyed_seed

FIRST = 16  # samples of the first window; each following one has twice as many, up to the largest
LEAST = 64  # samples of the largest window at least: captions of the same window may become negative prompts


class Window:
    """Shuffled samples, each with the cursor after it (`__cursor__`) and the captions of its window (`__pool__`).

    Args:
        size: samples in memory, two windows; 0 or 1: the order stays.
        seed, stream: of the order.
        start: where to go on.
        shapes: widths and heights of the aspect-ratio buckets; empty: none.
        mix: how frequent each shape is.
        together: neighbours that have one shape (`__shape__`, and the same `__group__`), where there are buckets.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        stream: int | None,
        start: Cursor,
        shapes: Sequence[tuple[int, int]] = (),
        mix: Sequence[int] = (),
        together: int = 1,
    ):
        self.shuffled, self.largest = size > 1, max(size // 2, LEAST)
        self.seed, self.stream, self.start = seed, stream, start
        self.shapes, self.mix, self.together = shapes, mix, together

    def length(self, number: int) -> int:
        """Samples of a window: whole groups of one shape."""
        length = min(FIRST << min(number, 32), self.largest)
        return -(-length // self.together) * self.together if self.shapes else length

    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        items = iter(items)
        number, gone = self.start.window, self.start.offset
        window = list(islice(items, self.length(number)))
        while window:
            first = window[0]
            place = (first["__epoch__"], first["__position__"], first["__number__"], number)
            pool, order, following = WindowPool(window), self._order(window, number), list[Item]()
            ahead = self.length(number + 1)
            for offset, index in enumerate(order):
                item, window[index] = window[index], {}
                if offset >= gone:
                    following.extend(islice(items, max(0, ahead * (offset + 1) // len(order) - len(following))))
                    yield {**item, "__cursor__": Cursor(*place, offset + 1), "__pool__": pool}
            following.extend(islice(items, ahead - len(following)))
            window, number, gone = following, number + 1, 0

    def _order(self, window: list[Item], number: int) -> list[int]:
        random = Random(keyed_seed(self.seed, self.stream, number, "window"))
        order = list(range(len(window)))
        if self.shuffled:
            random.shuffle(order)
        if not self.shapes:
            return order
        # the plan is that of all streams
        plan = planned(self.mix, -(-len(window) // self.together), Random(keyed_seed(self.seed, number, "shapes")))
        sizes = [image_size(item) or self.shapes[0] for item in window]
        groups = filled(plan, sizes, order, self.shapes, self.together)
        for place, (shape, group) in enumerate(zip(plan, groups, strict=True)):
            for index in group:
                window[index] |= {"__shape__": self.shapes[shape], "__group__": (number, place)}
        return [index for group in groups for index in group]


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


class WindowPool(Pool):
    """The captions and keywords of a window, parsed when they are looked at."""

    def __init__(self, window: Sequence[Item]):
        kept = [{name: item[name] for name in ("txt", "json") if name in item} for item in window]
        object.__setattr__(self, "raws", kept)  # a Pool is frozen

    @cached_property
    def _texts(self) -> list[tuple[str, tuple[str, ...]]]:
        return [texts(Raw("", raw)) for raw in vars(self)["raws"]]

    @cached_property
    def prompts(self) -> Sequence[str]:
        return tuple(caption for caption, _ in self._texts if caption)

    @cached_property
    def keywords(self) -> Sequence[str]:
        return tuple(dict.fromkeys(word for _, words in self._texts for word in words))

    def __eq__(self, other: Any) -> bool:
        return self is other

    __hash__ = object.__hash__
