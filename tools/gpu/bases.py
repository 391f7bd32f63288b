"""Bases of published sizes with random weights, made on the device itself: nothing is read, fetched or written."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import configurations, outline_base, quiet
from sunlab.backbones.sd.tokenizer import clip_tokenizer

tokenizer = cache(clip_tokenizer)

SMALL: Mapping[str, Mapping[str, Any]] = {
    "UNet2DConditionModel": {
        "sample_size": 8,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [8, 16],
    },
    "PixArtTransformer2DModel": {"sample_size": 8, "num_layers": 2, "num_attention_heads": 2, "cross_attention_dim": 144},
    "SanaTransformer2DModel": {"sample_size": 8, "num_layers": 2, "num_attention_heads": 2, "cross_attention_dim": 64,
                               "num_cross_attention_heads": 2, "cross_attention_head_dim": 32},
    "SD3Transformer2DModel": {"sample_size": 8, "num_layers": 2, "num_attention_heads": 2, "caption_projection_dim": 128,
                              "dual_attention_layers": [0], "pos_embed_max_size": 8},
    "AutoencoderKL": {"norm_num_groups": 4, "layers_per_block": 1, "sample_size": 64},
    "CLIPTextModel": {"num_hidden_layers": 1},
}  # fmt: skip
"""Class of a part -> what a rehearsal changes in its configuration."""


def random_base(
    family: str,
    device: str,
    dtype: torch.dtype,
    *,
    tiny: bool = False,
    pixels: int | None = None,
    options: Mapping[str, Any] | None = None,
    whole: bool = False,
) -> BaseModel:
    """A frozen base of a family's size.

    Args:
        family: as in `model.family`.
        tiny: with fewer channels and layers, for a rehearsal.
        pixels: of its pictures; None: the family's own.
        options: of the backbone, with its name.
        whole: with text encoder (Stable Diffusion alone) and autoencoder; else these stay on the meta device, as shapes.
    """
    quiet()
    folder = configurations(family)
    with TemporaryDirectory(prefix="sunlab-") as scratch:
        given = shrunk(folder, Path(scratch) / family) if tiny else folder
        base = outline_base("random", family=str(given), dtype=dtype, backbone=options)
    base = replace(base, folder=folder)
    torch.manual_seed(0)
    materialise(base.backbone, device)
    network: Any = base.backbone
    if (options or {}).get("channels_last"):
        network.unet.to(memory_format=torch.channels_last)
    if pixels is not None and not tiny:
        side = pixels // base.autoencoder.factor
        network.sample_shape = (network.sample_shape[0], side, side)
    if whole:
        for part in (base.text, base.autoencoder):
            materialise(part, device)
        text: Any = base.text
        text.tokenizer = tokenizer()
    return base.freeze()


def shrunk(folder: Path, to: Path) -> Path:
    """A copy of the configurations with fewer channels and layers."""
    shutil.copytree(folder, to)
    for file in to.glob("*/config.json"):
        tree = json.loads(file.read_text(encoding="utf-8"))
        kind = tree.get("_class_name") or (tree.get("architectures") or [""])[0]
        tree |= SMALL.get(kind, {})
        if kind == "AutoencoderKL":
            tree["block_out_channels"] = [8] * len(tree["block_out_channels"])  # as many levels, and pixels a latent
        if "transformer_layers_per_block" in tree:
            tree["transformer_layers_per_block"] = [1] * len(tree["block_out_channels"])
        file.write_text(json.dumps(tree), encoding="utf-8")
    return to


@torch.no_grad()
def materialise(module: nn.Module, device: str) -> None:
    """Give every tensor on the meta device random values: weights of matrices and kernels near 0, norms near 1."""
    made: dict[int, Any] = {}

    def fill(tensor: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
        if id(tensor) not in made:
            real = rule(torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
            made[id(tensor)] = nn.Parameter(real) if isinstance(tensor, nn.Parameter) else real
        found: Tensor = made[id(tensor)]
        return found

    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_meta:
                mean = 1.0 if parameter.ndim == 1 and name == "weight" else 0.0
                part._parameters[name] = fill(parameter, lambda t, mean=mean: t.normal_(mean, 0.02))  # type: ignore[assignment]
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_meta:
                part._buffers[name] = fill(buffer, numbered if not buffer.is_floating_point() else lambda t: t.normal_())


def numbered(tensor: Tensor) -> Tensor:
    """0, 1, ... along the last dimension: positions of tokens."""
    return tensor.copy_(torch.arange(tensor.shape[-1], device=tensor.device).expand(tensor.shape))
