"""Numbers of a step that all ranks add up on the device, read on the host without waiting for it."""

from collections import deque
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

LAG = 2
"""Steps of a GPU that the host runs ahead of it at most."""


class Later:
    """Each step's numbers, summed over all ranks, are read `lag` steps later, when a GPU has long computed them. Every rank
    reads those of the same step, so that all decide alike.

    Args:
        lag: None: 2 on a GPU, 0 elsewhere, where the device is the host.
    """

    def __init__(self, lag: int | None = None):
        self.lag = lag
        self._waiting: deque[tuple[Tensor, Any, Any]] = deque()

    def __len__(self) -> int:
        """Steps that are not read yet."""
        return len(self._waiting)

    def add(self, numbers: Tensor, what: Any = None) -> list[tuple[Any, Any]]:
        """Those that are due, each with its `what`.

        Args:
            numbers: this rank's; changed into the sum over all ranks, on the device.
            what: returned with them.
        """
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(numbers)
        event, host = None, numbers.detach().clone()
        if numbers.is_cuda:
            host = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting.append((host, event, what))
        lag = (LAG if numbers.is_cuda else 0) if self.lag is None else self.lag
        return [self._read() for _ in range(len(self._waiting) - lag)]

    def rest(self) -> list[tuple[Any, Any]]:
        """All that are left, at the end of a training or before a checkpoint; waits for the device."""
        return [self._read() for _ in range(len(self._waiting))]

    def _read(self) -> tuple[Any, Any]:
        host, event, what = self._waiting.popleft()
        if event is not None:
            event.synchronize()
        return host.tolist(), what
