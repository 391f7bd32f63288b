"""The memory that a step of training needs, estimated from shapes alone."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from sunlab.modules.optimization import Optimization


@dataclass(frozen=True)
class Footprint:
    """Bytes of a rank. Kernels' workspaces and the allocator's losses come on top.

    Attributes:
        frozen: weights that are not trained.
        trained: weights that are.
        optimizer: AdamW's two moments.
        step: the most that activations, gradients and temporary tensors of a micro-batch take at one time.
    """

    frozen: int
    trained: int
    optimizer: int
    step: int

    @property
    def total(self) -> int:
        return self.frozen + self.trained + self.optimizer + self.step


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes, each tensor counted once."""
    return sum({id(t): t.nbytes for t in tensors}.values())


def footprint(
    module: nn.Module, trained: Iterable[nn.Parameter], optimization: Optimization, critics: Iterable[nn.Parameter] = ()
) -> Footprint:
    """Without the step.

    Args:
        module: with everything in memory.
        trained: its parameters that are.
        optimization: of these.
        critics: those of the loss's networks, which have AdamW's moments in their own type.
    """
    trained, critics = list(trained), list(critics)
    ours = {id(p) for p in (*trained, *critics)}
    frozen = size(p for p in (*module.parameters(), *module.buffers()) if id(p) not in ours)
    moments = optimization.bytes_of_moments(trained) + 2 * size(critics)
    return Footprint(frozen, size(trained) + size(critics), moments, 0)
