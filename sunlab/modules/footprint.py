"""The memory that a step of training needs, estimated from shapes alone."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from sunlab.backbones import Backbone


@dataclass(frozen=True)
class Footprint:
    """Bytes of a rank. Kernels' workspaces, the allocator's losses and what passes without gradient use come on top.

    Attributes:
        frozen: weights that are not trained.
        trained: weights that are.
        gradients: of these.
        optimizer: AdamW's two moments.
        activations: kept for the backward pass of one micro-batch.
    """

    frozen: int
    trained: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.frozen + self.trained + self.gradients + self.optimizer + self.activations


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes, each tensor counted once."""
    return sum({id(t): t.nbytes for t in tensors}.values())


class Kept:
    """What autograd keeps for the backward pass, parameters and what is kept already left out."""

    def __init__(self, parameters: Iterable[Tensor]):
        self.bytes = 0
        self._seen = {p.untyped_storage()._cdata for p in parameters}
        self._alive: list[Tensor] = []  # so that no storage is given to another tensor meanwhile

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(tensor)
            self.bytes += storage.nbytes()
        return tensor


def activations(backbone: Backbone, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps of one forward pass of a backbone on the meta device.

    Attention counts as torch's fused kernels have it, which keep no scores. With gradient checkpointing: the inputs of the
    blocks, and what the largest block keeps while it is recomputed.
    """
    parameters = list(backbone.parameters())
    kept, largest = Kept(parameters), [0]

    def recomputed(function: Callable[..., Any], *args: Any) -> Any:
        for value in args:
            if isinstance(value, Tensor):
                kept(value)
        inside = Kept(parameters)
        with saved_tensors_hooks(inside, lambda tensor: tensor):
            output = function(*args)
        largest[0] = max(largest[0], inside.bytes)
        return output

    if backbone.checkpointing:
        backbone.enable_checkpointing(recomputed)
    with torch.enable_grad(), FusedAttention(), saved_tensors_hooks(kept, lambda tensor: tensor):
        forward()
    return kept.bytes + largest[0]


class FusedAttention(TorchFunctionMode):
    """On the meta device torch counts attention as matrix products that keep their scores."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is scaled_dot_product_attention:
            return _Fused.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("only shapes are known here")


def footprint(module: nn.Module, trained: Iterable[nn.Parameter], critics: Iterable[nn.Parameter] = ()) -> Footprint:
    """Without activations.

    Args:
        module: with everything in memory.
        trained: its parameters that are.
        critics: those of the loss's networks. They are trained in turns with the others, so that only one of both has
            gradients.
    """
    trained, critics = list(trained), list(critics)
    ours = {id(p) for p in (*trained, *critics)}
    frozen = size(p for p in (*module.parameters(), *module.buffers()) if id(p) not in ours)
    student, others = size(trained), size(critics)
    return Footprint(frozen, student + others, max(student, others), 2 * (student + others), 0)
