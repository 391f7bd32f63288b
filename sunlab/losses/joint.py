"""The optimizers of the student and of a loss's networks, and several of them as one."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

FUSED = ("cpu", "cuda", "mps", "xpu")  # types of device that torch has a fused AdamW for


def adamw(
    parameters: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0
) -> torch.optim.AdamW:
    """AdamW, one kernel for all parameters where their devices have it."""
    given = list(parameters)
    fused = all(parameter.device.type in FUSED for parameter in given)
    return torch.optim.AdamW(given, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)


class JointOptimizer(torch.optim.Optimizer):
    """Several optimizers as one. A step is one of each optimizer that has a parameter with a gradient.

    The parameter groups are the optimizers' own, in their order, so that schedules, clipping and gradient scalers see them.

    Args:
        optimizers: over different parameters.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]):
        self.optimizers = list(optimizers)
        super().__init__([group for optimizer in self.optimizers for group in optimizer.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for optimizer in self.optimizers:
            if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
                optimizer.step()
        return result

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
