"""A base -> a diffusers folder."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from sunlab.files import open_to_readers

if TYPE_CHECKING:
    from sunlab.backbones.pretrained import BaseModel


def save_base(model: "BaseModel", folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write a diffusers folder that plain `DiffusionPipeline.from_pretrained(folder)` opens."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(model.folder / "model_index.json", folder / "model_index.json")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    shutil.copytree(model.folder / "scheduler", scheduler.parent, dirs_exist_ok=True)
    if model.said:
        scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), **model.said}, indent=2) + "\n")
    parts: dict[str, nn.Module] = {"unet": model.backbone.unet, "vae": model.autoencoder.vae}
    for number, (tokenizer, encoder) in enumerate(model.text.parts()):
        end = f"_{number + 1}" if number else ""
        tokenizer.save_pretrained(folder / f"tokenizer{end}")
        parts[f"text_encoder{end}"] = encoder
    for name, part in parts.items():
        rounded = nn.Module.to(deepcopy(part), dtype)  # diffusers' own `to` warns of an empty list
        rounded.save_pretrained(folder / name, safe_serialization=True)
        for weights in (folder / name).glob("*.safetensors"):
            open_to_readers(weights)
        file = folder / name / "config.json"
        config = {k: v for k, v in json.loads(file.read_text()).items() if k != "_name_or_path"}  # where it was made
        if name.startswith("text_encoder"):
            config["dtype"] = "float32"  # transformers loads in this type, diffusers its parts in float32
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
