"""The adapter file: tensors named by layer, and a header that describes itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sunlab
from sunlab import hub
from sunlab.adapters import Adapter
from sunlab.errors import DataError
from sunlab.export import published
from sunlab.export.header import FORMAT, check_header, with_times
from sunlab.export.seal import pack, unpack, verify
from sunlab.files import replacing
from sunlab.packaged import asset

__all__ = ["FORMAT", "AdapterFile", "check_finite", "read_adapter", "save_adapter", "write_tensors"]

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class AdapterFile:
    """An adapter file as read and checked, before it is attached to a U-Net.

    Attributes:
        header: see `sunlab.export.header.FIELDS`; of a file in the authors' layout, what is known of it.
        tensors: on the CPU, as the file names them.
        layout: `sunlab`, tensors named by layer, or `published`, by position.
    """

    path: Path
    header: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    layout: str = "sunlab"


def save_adapter(path: Path, adapter: Adapter, header: Mapping[str, Any], *, dtype: torch.dtype = torch.float16) -> Path:
    """Write the adapter's tensors, named by layer, beside its final name, and move it there.

    Raises:
        DataError: a value that is not finite, or too large for `dtype`.
    """
    return write_tensors(path, adapter.tensors(), {**header, "adapter": dict(adapter.spec)}, dtype=dtype)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], *, dtype: torch.dtype) -> Path:
    """The same for tensors that are named already and a header that says of which adapter they are."""
    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in tensors.items()}
    check_finite(tensors, str(path))
    described = {**header, "format": FORMAT, "sunlab": sunlab.__version__, "dtype": str(dtype).removeprefix("torch.")}
    check_header(described, str(path))
    described = with_times(described)
    write_bytes(path, pack(tensors, described))
    return path


def write_bytes(path: Path, data: bytes | bytearray) -> None:
    """Write beside the final name, then move: a file is whole or not there."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def locate_adapter(name: str | Path) -> Path:
    """The file that `name` stands for: a path, a file inside the package, or one on the Hub (`owner/name`, also with
    `@revision` and `:file`), which is fetched first. A path that is not there is returned as it is.

    Raises:
        ConfigError, DataError, StorageError: see `sunlab.hub.fetch_file`.
    """
    place = asset(name)
    found = None if place.exists() else hub.parse(str(name))
    return place if found is None else hub.fetch_file(found, f"adapter {name}")


def read_adapter(path: str | Path) -> AdapterFile:
    """Read and check a file, ours or one in the authors' published layout.

    Args:
        path: see `locate_adapter`.

    Raises:
        DataError: a file that is damaged, foreign, or of another format than this version's.
    """
    path = locate_adapter(path)
    require_file(path)
    data = path.read_bytes()
    tensors, header = unpack(data, str(path))
    if header is None:
        if not published.is_published(tensors):
            if any(".lora_" in name for name in tensors):
                raise DataError(f"{path}: another program's LoRA, no adapter of sunlab's; pipe.load_lora_weights loads it")
            raise DataError(f"{path}: no header of sunlab's; was it written by another program?")
        header, layout = published.describe(tensors, str(path)), "published"
    else:
        layout = "sunlab"
        check_header(header, str(path))
        verify(data, header, str(path))
        header = with_times(header)
    wrong = [n for n, t in tensors.items() if t.dtype != DTYPES[header.get("dtype", "float16")]]
    if wrong:
        raise DataError(f"{path}: {wrong[0]} is {tensors[wrong[0]].dtype}, expected {header.get('dtype', 'float16')}")
    check_finite(tensors, str(path))
    return AdapterFile(path, header, tensors, layout)


def require_file(path: Path) -> None:
    """Raise `DataError` where there is no such file."""
    if path.is_file():
        return
    inside = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    hint = f": a folder; in it there is {inside[0].name}" if inside else ": a folder, not a file" if path.is_dir() else ""
    raise DataError(f"{path}: no such adapter file{hint}")


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise DataError(f"{where}: {bad[0]} has values that are not finite")
