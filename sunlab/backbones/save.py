"""A network of diffusers' or transformers' -> its folder."""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from sunlab.files import open_to_readers


def save_part(part: Any, folder: Path, dtype: torch.dtype, config: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write weights as safetensors in `dtype`, and the configuration, with `config` over it."""
    rounded: Any = nn.Module.to(deepcopy(part), dtype)  # diffusers' own `to` warns of an empty list
    rounded.save_pretrained(folder, safe_serialization=True)
    for weights in folder.glob("*.safetensors"):
        open_to_readers(weights)
    file = folder / "config.json"
    kept = {k: v for k, v in json.loads(file.read_text()).items() if k != "_name_or_path"}  # the path it was loaded from
    file.write_text(json.dumps({**kept, **config}, indent=2, sort_keys=True) + "\n")
