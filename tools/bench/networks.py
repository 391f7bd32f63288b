"""The same weights under several adapters at once, so that cases alternate without attaching or detaching."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sunlab.adapters import Adapter
from sunlab.backbones import Backbone
from sunlab.backbones.base import BaseModel


def twin(base: BaseModel, adapter: Adapter | None = None) -> BaseModel:
    """The base with a backbone of its own over the same weights, the adapter attached. New parameters take the weights'
    type."""
    memory: dict[int, Any] = {id(t): t for t in (*base.backbone.parameters(), *base.backbone.buffers())}
    backbone: Backbone = deepcopy(base.backbone, memory)
    if adapter is not None:
        adapter.attach(backbone)
        dtype = next(base.backbone.parameters()).dtype
        for parameter in adapter.tensors().values():
            parameter.data = parameter.data.to(base.device, dtype)
            parameter.requires_grad_(False)
    return replace(base, backbone=backbone)


def compile_blocks(network: nn.Module) -> int:
    """`torch.compile` of the blocks that a network repeats, each kind once for each shape, instead of the whole of it: a
    fraction of the time to compile (PyTorch's "regional compilation"). Returns how many blocks there are."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 64  # one block, in as many shapes as the U-Net has levels
    kinds = {*getattr(network, "_repeated_blocks", ()), "ResnetBlock2D"}
    blocks = [module for module in network.modules() if type(module).__name__ in kinds]
    for block in blocks:
        block.compile(dynamic=False)
    return len(blocks)


def fused(base: BaseModel) -> BaseModel:
    """Likewise with a LoRA added to the weights: a network of other weights and the same cost."""
    return twin(base)


def tiny_decoder(factor: int, dtype: torch.dtype, device: str) -> nn.Module:
    """An AutoencoderTiny of TAESD's shape, random: `factor` pixels for a latent position, 8 in Stable Diffusion."""
    from diffusers import AutoencoderTiny

    levels = factor.bit_length()
    vae = AutoencoderTiny(
        encoder_block_out_channels=(64,) * levels,
        decoder_block_out_channels=(64,) * levels,
        num_encoder_blocks=(1, *[3] * (levels - 1)),
        num_decoder_blocks=(*[3] * (levels - 1), 1),
    )
    return nn.Module.to(vae, device, dtype).requires_grad_(False).eval()
