"""The hidden states in the middle of a network, which a discriminator reads."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Reached(Exception):
    def __init__(self, output: Any):
        super().__init__()
        self.output = output


def hidden_states(layer: nn.Module, run: Callable[[], Any]) -> Tensor:
    """The output of `layer` in `run()`, which ends there, as tokens (B, P, h): a map (B, h, H, W) is flattened, and of
    several streams the last, the image's, is taken. A compiled network runs eagerly here.

    Args:
        layer: a part of the network; not one that is inside a block whose activations are recomputed.
        run: a pass of the network.
    """
    thread = threading.get_ident()

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            raise _Reached(output)

    handle = layer.register_forward_hook(stop)
    try:
        with torch.compiler.set_stance("force_eager"):
            run()
    except _Reached as reached:
        output = reached.output
    finally:
        handle.remove()
    hidden: Tensor = output[-1] if isinstance(output, tuple) else output
    return hidden.flatten(2).mT if hidden.dim() == 4 else hidden
