"""The order of a shuffle buffer, worked out on positions alone, so that skipping needs no data."""

from collections.abc import Iterator
from random import Random


class BufferOrder(Iterator[int]):
    """The positions 0 ... count - 1 in the order in which a shuffle buffer would hand them out.

    The buffer is filled in order up to `size`, then one of its positions, drawn by `random`, leaves at a time.

    Attributes:
        pending: the positions in the buffer now.
        front: the first position that was not put in yet.
    """

    def __init__(self, count: int, size: int, random: Random):
        self.count, self.size, self.random = count, max(size, 1), random
        self.pending: list[int] = []
        self.front = 0

    def __next__(self) -> int:
        while self.front < self.count and len(self.pending) < self.size:
            self.pending.append(self.front)
            self.front += 1
        if not self.pending:
            raise StopIteration
        last, drawn = len(self.pending) - 1, self.random.randrange(len(self.pending))
        self.pending[drawn], self.pending[last] = self.pending[last], self.pending[drawn]
        return self.pending.pop()

    def skip(self, count: int) -> None:
        """Pass over the next `count` positions."""
        for _ in range(count):
            next(self, None)
