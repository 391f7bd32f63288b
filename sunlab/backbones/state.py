"""The state of the pass that runs in this thread, for layers that get no keyword arguments from their network.

Two threads over one network have a state each. Activation checkpointing recomputes a block in the backward pass, possibly in
another thread, after the forward pass has returned; `checkpoint` enters the state again there. `torch.compile` traces reads
of a `threading.local`; it breaks the graph at a `ContextVar`.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import checkpoint as torch_checkpoint

STATE = "sun"
"""The key of the state in the keyword arguments that a network hands to its attention layers."""


class _Running(threading.local):
    state: Any = None


_RUNNING = _Running()


def carried() -> Any:
    """The state of the pass that is running, None if it has none."""
    return _RUNNING.state


def carry(state: Any) -> None:
    """Set the state until the next call, where a network's forward cannot be wrapped in `carrying`."""
    _RUNNING.state = state


@contextmanager
def carrying(state: Any) -> Iterator[None]:
    """Run a network's forward with this state."""
    before, _RUNNING.state = _RUNNING.state, state
    try:
        yield
    finally:
        _RUNNING.state = before


def at_time(state: Any, time: Any, prompt: Any = None) -> Any:
    """The state in a pass at this time of the network, (B,) or (): what `Backbone.predict` passes on.

    Args:
        prompt: (B, L, d), that the network projects to its layers' tokens before all layers and whatever the time; None: it
            does not.
    """
    at = getattr(state, "at", None)
    return state if at is None else at(time, prompt)


def second_prompt(state: Any) -> tuple[Any, Any]:
    """The second prompt (B, L, d) that a network of joint attention carries in a pass with this state, and its mask (B, L),
    False where no query attends to it; None for either that is not there."""
    return getattr(state, "second", None), getattr(state, "second_mask", None)


def checkpoint(function: Callable[..., Any], *args: Any) -> Any:
    """`torch.utils.checkpoint.checkpoint` whose recomputation sees the state of the forward pass. It can be given to
    diffusers' `enable_gradient_checkpointing`."""
    if torch.compiler.is_compiling():  # the state is part of the traced graph
        return torch_checkpoint.checkpoint(function, *args, use_reentrant=False)
    state = carried()

    def with_state(*args: Any) -> Any:
        with carrying(state):
            return function(*args)

    return torch_checkpoint.checkpoint(with_state, *args, use_reentrant=False)
