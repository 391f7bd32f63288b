"""Read a layer's weight in any storage: plain, quantised, cast to eight bits, or offloaded."""

from typing import Any

import torch
from torch import Tensor, nn

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def unwrapped(layer: Any) -> Any:
    """The layer without the wrappers of peft's LoRAs."""
    while (inner := getattr(layer, "base_layer", None)) is not None:
        layer = inner
    return layer


def computes_alone(layer: nn.Module) -> bool:
    """Whether it is a linear layer whose output is `x W^T + b` of its own weight and bias: no LoRA, no hook, no forward of
    another library."""
    replaced = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    return type(layer) is nn.Linear and not replaced


def shape_of(layer: Any) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer; a quantised weight has another shape."""
    layer = unwrapped(layer)
    return layer.out_features, layer.in_features


def device_of(layer: Any) -> torch.device:
    """Where the layer computes; the weights of an offloaded one may be elsewhere."""
    layer = unwrapped(layer)
    device = getattr(getattr(layer, "_hf_hook", None), "execution_device", None)
    return layer.weight.device if device is None else torch.device(device)


def dtype_of(layer: Any) -> torch.dtype:
    """The floating type of the layer's weight; float32 if it is stored in another."""
    dtype = unwrapped(layer).weight.dtype
    return dtype if dtype in FLOATS else torch.float32


@torch.no_grad()
def dense(layer: Any) -> Tensor:
    """W (outputs, inputs) of a linear layer. What cannot be read is computed, column by column."""
    layer = unwrapped(layer)
    device, weight = device_of(layer), layer.weight
    readable = type(weight.data) is torch.Tensor and weight.dtype in FLOATS and weight.device == device
    if readable and tuple(weight.shape) == shape_of(layer):
        return weight.detach()
    for dtype in (getattr(layer, "compute_dtype", None) or torch.float32, torch.bfloat16, torch.float16):
        try:
            columns = layer(torch.eye(layer.in_features, device=device, dtype=dtype))
            return (columns if layer.bias is None else columns - layer.bias).mT
        except RuntimeError as error:  # another compute type
            failure = error
    raise failure


def bias_of(layer: Any) -> Tensor | None:
    """b (outputs,) of a linear layer where it computes, or None."""
    bias = getattr(unwrapped(layer), "bias", None)
    return None if bias is None else bias.detach().to(device_of(layer))
