"""What a computation allocates, counted on the meta device, where tensors have shapes and types but no values."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sunlab.backbones import Backbone
from sunlab.backbones.state import checkpoint

HALF = {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "matmul", "__matmul__", "bmm", "baddbmm", "addmm", "mm"}
SINGLE = {"group_norm", "layer_norm", "softmax", "log_softmax", "pow", "__pow__", "exp", "log", "rsqrt", "reciprocal", "sum",
          "prod", "cumsum", "norm", "mse_loss", "softplus"}  # fmt: skip


class Allocated(TorchDispatchMode):
    """Bytes of the tensors on one type of device that are alive, and the most that were at any time.

    What a kernel uses inside is not seen: its workspace comes on top.

    Args:
        known: what is in memory already, and is not counted.
        device: type of the device.
    """

    def __init__(self, known: Iterable[Tensor] = (), device: str = "meta"):
        super().__init__()
        self.alive = self.peak = 0
        self._device = device
        self._seen = {t.untyped_storage()._cdata for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == self._device:
                self._count(tensor)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        finalize(storage, self._free, key, size)  # a storage's object lives as long as its memory
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.alive -= size


class OnAccelerator(TorchFunctionMode):
    """On the meta device, operations keep for the backward pass what they keep on an accelerator.

    Attention counts as torch's fused kernels have it, which keep no scores. With `half`, operations take the types that
    `torch.autocast` of CUDA gives them (https://docs.pytorch.org/docs/stable/amp.html, "CUDA Op-Specific Behavior"), without
    a cache of casts, as Lightning enters it.

    Args:
        half: the type of autocast; None: without.
    """

    def __init__(self, half: torch.dtype | None = None):
        super().__init__()
        self._half = half

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        given, name = dict(kwargs or {}), getattr(func, "__name__", "")
        attends = func is scaled_dot_product_attention
        if self._half is not None and (attends or name in HALF):
            args, given = self._cast(args, self._half), {k: self._cast(v, self._half) for k, v in given.items()}
        elif self._half is not None and name in SINGLE:
            args, given = self._cast(args, torch.float32), {k: self._cast(v, torch.float32) for k, v in given.items()}
        if attends and (kept := [*args, *(given[k] for k in ("query", "key", "value") if k in given)])[0].is_meta:
            return _Fused.apply(*kept[:3])
        return func(*args, **given)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(self._cast(each, dtype) for each in value)
        if not isinstance(value, Tensor) or not value.is_meta or value.dtype == dtype or not _floats(value):
            return value
        return value.to(dtype)


def _floats(tensor: Tensor) -> bool:
    """Whether autocast casts it: float64 and whole numbers stay."""
    return tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)


class _Fused(torch.autograd.Function):
    """Attention that keeps its inputs, its output and a number a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty((*query.shape[:-1], value.shape[-1]))
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, rows)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def peak_of_step(loss: Callable[[], Tensor], known: Iterable[Tensor], half: torch.dtype | None = None) -> int:
    """The most bytes that a forward and backward pass on the meta device holds at any time: activations, gradients and what
    is used in between.

    Args:
        loss: computes the loss.
        known: what is in memory before.
        half: the type of autocast; None: without.
    """
    allocated = Allocated(known)
    with torch.enable_grad(), OnAccelerator(half), allocated:
        loss().backward()
    return allocated.peak


def recompute_alike(backbone: Backbone, half: torch.dtype | None) -> None:
    """Let blocks that are recomputed in the backward pass, which leaves `OnAccelerator`, enter it again."""

    def run(block: Callable[..., Any], *args: Any) -> Any:
        def inside(*args: Any) -> Any:
            with OnAccelerator(half):
                return block(*args)

        return checkpoint(inside, *args)

    if backbone.checkpointing:
        backbone.enable_checkpointing(run)
