"""A LoRA student in the layouts that diffusers and the common user interfaces load."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from sunlab.errors import DataError
from sunlab.export.file import write_bytes
from sunlab.export.published import is_unet


def to_diffusers(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """For `pipe.load_lora_weights`: `unet.<layer>.lora_A.weight` (`transformer.` of other networks), and peft's
    configuration, which diffusers reads from the metadata key `lora_adapter_metadata`."""
    part = "unet" if is_unet(tensors) else "transformer"
    renamed = {f"{part}.{name}": tensor for name, tensor in tensors.items()}
    alpha = spec.get("alpha") or spec["rank"]
    settings = {"r": spec["rank"], "lora_alpha": alpha, "target_modules": list(spec["targets"])}
    settings |= {"rank_pattern": {}, "alpha_pattern": {}}  # none, which diffusers 0.37 requires explicitly
    return renamed, {f"{part}.{key}": value for key, value in settings.items()}


def save_lora(path: Path, tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> Path:
    """A style LoRA, fp16, as `pipe.load_lora_weights(path)` takes it. Creates the folder."""
    renamed, settings = to_diffusers(tensors, spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = {name: tensor.detach().cpu().to(torch.float16).contiguous() for name, tensor in renamed.items()}
    write_bytes(path, save(rounded, {"format": "pt", "lora_adapter_metadata": json.dumps(settings, sort_keys=True)}))
    return path


def to_kohya(tensors: Mapping[str, Tensor], spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """For the user interfaces, as kohya-ss's trainer names tensors: `lora_unet_<layer, dots as _>.lora_down.weight`,
    `.lora_up.weight`, and alpha as a tensor of its own beside each pair."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".lora_")
        key = "lora_unet_" + layer.replace(".", "_")
        renamed[f"{key}.lora_{'down' if part.startswith('A') else 'up'}.weight"] = tensor
        renamed[f"{key}.alpha"] = torch.tensor(float(spec.get("alpha") or spec["rank"]), dtype=tensor.dtype)
    return renamed


def check_is_lora(tensors: Mapping[str, Tensor], spec: Mapping[str, Any], where: str, layout: str) -> None:
    """Raises `DataError` for an adapter that has more than a LoRA's tensors, or one of a transformer in kohya's layout."""
    if layout == "kohya" and not is_unet(tensors):
        raise DataError(f"{where}: the layout 'kohya' is that of U-Nets, this is of a transformer; use --layout diffusers")
    if any(".lora_" not in name for name in tensors):
        raise DataError(
            f"{where}: the layout {layout!r} holds LoRAs, this is an adapter of the kind {spec.get('name')!r}; use it in "
            "diffusers through sunlab.plug(pipe, FILE)"
        )
