"""The state of a pass in a `ContextVar`, for networks that hand no keyword arguments on to their attention layers.

The variable belongs to the call: two threads over one network have a value each. Activation checkpointing recomputes a block
during the backward pass, in autograd's thread, after the call has returned; `checkpoint` enters the state again there.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from torch.utils import checkpoint as torch_checkpoint

_STATE: ContextVar[Any] = ContextVar("sunlab state of a pass", default=None)


def carried() -> Any:
    """The state of the pass that is running, None if it has none."""
    return _STATE.get()


@contextmanager
def carrying(state: Any) -> Iterator[None]:
    """Run a network's forward with this state."""
    token = _STATE.set(state)
    try:
        yield
    finally:
        _STATE.reset(token)


def checkpoint(function: Callable[..., Any], *args: Any) -> Any:
    """`torch.utils.checkpoint.checkpoint` whose recomputation sees the state of the forward pass. It can be given to
    diffusers' `enable_gradient_checkpointing`."""
    state = carried()

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), carrying(state)

    return torch_checkpoint.checkpoint(function, *args, use_reentrant=False, context_fn=contexts)
