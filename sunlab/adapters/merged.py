"""A layer computed with the merged weight W + s B A of a LoRA, where that takes fewer operations than adding s B A x."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

KINDS = nn.Linear, nn.Conv2d


@dataclass(frozen=True)
class Convolution:
    """The geometry of a convolution in one group, padded with zeros."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @staticmethod
    def of(layer: nn.Module) -> "Convolution | None":
        """None for a linear layer."""
        return None if isinstance(layer, nn.Linear) else Convolution(layer.stride, layer.padding, layer.dilation)  # type: ignore[arg-type]


def merges(layer: Any, x: Tensor, a: Tensor, b: Tensor) -> bool:
    """Whether the merged weight takes fewer operations. Only over a frozen weight that is stored as it is computed with, and
    never in half precision, where the sum would lose small updates.

    Over P positions the merged weight costs r i o, in a backward pass as much again to recompute it, and, if A and B are
    trained, P i o for its gradient and 2 r i o for theirs. B A x costs P r (i + o) in each pass.

    Args:
        layer: of a type in `KINDS`.
        x: its input.
        a, b: A (r, i or channels, ...) and B (o, r, ...).
    """
    weight, bias = layer.weight, layer.bias
    exact = (
        type(weight) is nn.Parameter
        and weight.dtype == a.dtype == x.dtype
        and a.dtype.itemsize >= 4
        and (x.is_meta or not torch.is_autocast_enabled(x.device.type))  # the meta device has no autocast
    )
    fixed = not weight.requires_grad and (bias is None or not bias.requires_grad)
    if not (exact and fixed and getattr(layer, "groups", 1) == 1 and getattr(layer, "padding_mode", "zeros") == "zeros"):
        return False
    if isinstance(getattr(layer, "padding", None), str):
        return False
    rank, inputs, outputs = a.shape[0], a[0].numel(), b.shape[0]
    positions = x.numel() // weight.shape[1]
    if isinstance(layer, nn.Conv2d):
        positions //= layer.stride[0] * layer.stride[1]
    backward = torch.is_grad_enabled() and (a.requires_grad or x.requires_grad)
    trained = backward and a.requires_grad
    weights = (1 + backward + 2 * trained) * rank * inputs * outputs + trained * positions * inputs * outputs
    return weights < (1 + backward + trained) * positions * rank * (inputs + outputs)


def merged(layer: Any, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """The layer's output with W + scale B A, where `merges`."""
    out: Tensor = _Merged.apply(x, layer.weight, layer.bias, a, b, scale, Convolution.of(layer))
    return out


class _Merged(torch.autograd.Function):
    """The merged weight is recomputed in the backward pass: kept, those of all layers are a second network in memory."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
        convolution: Convolution | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale, ctx.convolution = scale, convolution
        w = _sum(weight, a, b, scale)
        if convolution is None:
            return linear(x, w, bias)
        return conv2d(x, w, bias, convolution.stride, convolution.padding, convolution.dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (grad,), (x, weight, a, b), convolution = gradients, ctx.saved_tensors, ctx.convolution
        for_x, for_a, for_b = (ctx.needs_input_grad[i] for i in (0, 3, 4))
        w = _sum(weight, a, b, ctx.scale) if for_x or convolution is not None else None
        if convolution is None:
            of_x = grad @ w if w is not None else None
            of_w = grad.flatten(0, -2).mT @ x.flatten(0, -2) if for_a or for_b else None
        else:
            of_x, of_w, _ = torch.ops.aten.convolution_backward(
                grad, x, w, None, convolution.stride, convolution.padding, convolution.dilation, False, (0, 0), 1,
                (for_x, for_a or for_b, False),
            )  # fmt: skip
        of_a = of_b = None
        if of_w is not None:
            of_w = ctx.scale * of_w.flatten(1)
            of_a = (b.flatten(1).mT @ of_w).view_as(a) if for_a else None
            of_b = (of_w @ a.flatten(1).mT).view_as(b) if for_b else None
        return of_x, None, None, of_a, of_b, None, None


def _sum(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.addmm(weight.flatten(1), b.flatten(1), a.flatten(1), alpha=scale).view_as(weight)
