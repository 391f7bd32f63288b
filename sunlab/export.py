"""Adapter <-> safetensors, with a header that describes itself and a checksum of the payload."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sunlab.adapters import ADAPTERS, Adapter
from sunlab.errors import DataError
from sunlab.hashing import state_hash

FORMAT = 1


@dataclass(frozen=True)
class AdapterFile:
    """An adapter file as read and checked, before it meets a U-Net."""

    path: Path
    header: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save_adapter(path: Path, adapter: Adapter, header: Mapping[str, Any], *, dtype: torch.dtype = torch.float16) -> Path:
    """Write the adapter's tensors, named by layer, beside its final name, and move it there."""
    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in adapter.tensors().items()}
    described = {**header, "format": FORMAT, "adapter": dict(adapter.spec), "sha256": state_hash(tensors)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata={"sunlab": json.dumps(described, sort_keys=True)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_adapter(path: str | Path) -> AdapterFile:
    """Read and check a file. Raises `DataError` for one that is damaged, foreign, or newer than this version."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such adapter file")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("sunlab")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(f"{path}: not a readable safetensors file ({error})") from None
    try:
        header = json.loads(text or "")
    except ValueError:
        raise DataError(f"{path}: no header of sunlab's; was it written by another program?") from None
    if header.get("format") != FORMAT:
        raise DataError(f"{path}: format {header.get('format')}, this version reads {FORMAT}; update sunlab")
    if header.get("sha256") != state_hash(tensors):
        raise DataError(f"{path}: damaged: the tensors do not have the SHA-256 that the header states")
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise DataError(f"{path}: {bad[0]} has values that are not finite")
    return AdapterFile(path, header, tensors)


def load_adapter(path: str | Path, unet: torch.nn.Module) -> tuple[Adapter, Mapping[str, Any]]:
    """The adapter of a file, plugged into `unet`, and the file's header.

    The adapter's kind is looked up among the registered ones; a file cannot name anything to import.

    Raises:
        DataError: a damaged file, or tensors that do not fit this U-Net, by name.
    """
    file = read_adapter(path)
    request = file.header["adapter"]
    adapter = ADAPTERS.build(request, key=f"{path}: adapter")
    adapter.attach(unet)
    try:
        fill(adapter, file.tensors, str(path))
    except DataError:
        adapter.detach()
        raise
    return adapter.requires_grad_(False), file.header


def fill(adapter: Adapter, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into an attached adapter. Raises `DataError` for a missing, unknown or misshapen one."""
    wanted = adapter.tensors()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise DataError(
            f"{where}: does not fit this U-Net: missing {missing[:2]}, unknown {extra[:2]}; "
            "is it an adapter of another base family?"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise DataError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, this U-Net needs "
                f"{tuple(wanted[name].shape)}; is it an adapter of another base family?"
            )
        with torch.no_grad():
            wanted[name].copy_(tensor)
