"""Pickled weights -> safetensors, without running what a pickle could run."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sunlab.backbones.weight_files import PICKLED
from sunlab.errors import ConfigError, DataError, StorageError
from sunlab.files import replacing

NAMES = {"pytorch_model": "model"}  # transformers' name for its pickled weights -> that of its safetensors
BESIDE = (
    *(f"{package}.callbacks.{module}" for package in ("pytorch_lightning", "lightning.pytorch", "lightning")
      for module in ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")),
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype",
)  # fmt: skip
"""What the first Stable Diffusion checkpoints hold beside tensors: names left by the program that trained them."""


class Ignored:
    """Placeholder for the classes named in `BESIDE`: accepts any arguments, does nothing, and is discarded."""

    def __new__(cls, *_: Any) -> "Ignored":
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def convert(file: str | Path, out: str | Path | None = None) -> Path:
    """Write the tensors of a `.ckpt`, `.bin` or `.pt` file as safetensors.

    torch reads it with `weights_only=True`: tensors and plain values, no code. Of a training checkpoint, the tensors under
    `state_dict` are taken; what Lightning keeps beside them (`BESIDE`) is passed over, without being imported.

    Args:
        file: pickled by torch.
        out: to write; None: beside it, under the name that diffusers and transformers look for.

    Returns:
        The written file.

    Raises:
        ConfigError: not a pickled file, or `out` is there already.
        DataError: it holds code, or no tensors.
        StorageError: it cannot be read or written.
    """
    source = Path(file)
    target = source.with_name(f"{NAMES.get(source.stem, source.stem)}.safetensors") if out is None else Path(out)
    if source.suffix.lower() not in PICKLED:
        raise ConfigError(f"{source}: expected one of {', '.join(PICKLED)}; safetensors need no conversion")
    if target.exists():
        raise ConfigError(f"{target} is there already; move it away or give another --out")
    try:
        with torch.serialization.safe_globals([(Ignored, name) for name in BESIDE]):
            loaded = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("Please file an issue")[0].strip().splitlines()[-1]
        raise DataError(
            f"{source}: refused, for it holds more than tensors and plain values, or is damaged: {reason}; ask for a "
            ".safetensors of it"
        ) from None
    except (OSError, RuntimeError, EOFError) as error:
        raise StorageError(f"{source}: cannot be read: {error}") from None
    tensors = _tensors(loaded)
    if not tensors:
        raise DataError(f"{source}: no tensors in it")
    with replacing(target) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    return target


def _tensors(loaded: Any) -> dict[str, Tensor]:
    """The named tensors, each with memory of its own, as safetensors requires."""
    while isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        return {}
    seen: set[int] = set()
    tensors = {}
    for name, tensor in loaded.items():
        if not isinstance(tensor, Tensor):
            continue
        storage = tensor.untyped_storage().data_ptr()
        shared = storage in seen and tensor.numel() > 0
        tensors[str(name)] = tensor.clone().contiguous() if shared else tensor.contiguous()
        seen.add(storage)
    return tensors
