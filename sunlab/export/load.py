"""Putting a file's tensors into a U-Net."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunlab.adapters import ADAPTERS, Adapter
from sunlab.errors import DataError
from sunlab.export.file import AdapterFile, read_adapter
from sunlab.export.published import place
from sunlab.export.shapes import cross_attention, describe_base


def load_adapter(
    file: str | Path | AdapterFile, unet: torch.nn.Module, *, over: Mapping[str, Any] | None = None
) -> tuple[Adapter, Mapping[str, Any]]:
    """The adapter of a file, plugged into `unet`, and the file's header.

    The adapter's kind is looked up among the registered ones; a file cannot name anything to import.

    Args:
        file: its path, or what was read of it.
        over: an adapter that is not trained and stacks on the file's, as `nag`, by name and parameters.

    Raises:
        DataError: a damaged file, or one for another base, by name.
    """
    read = fitted(file if isinstance(file, AdapterFile) else read_adapter(file), unet)
    spec = read.header["adapter"]
    adapter = ADAPTERS.build(spec if over is None else {**over, "inner": spec}, key=f"{read.path}: adapter")
    adapter.attach(unet)
    try:
        fill(adapter, read.tensors, str(read.path))
    except DataError:
        adapter.detach()
        raise
    return adapter.requires_grad_(False), read.header


def fitted(file: AdapterFile, unet: torch.nn.Module) -> AdapterFile:
    """The file, known to be of this U-Net's family, its tensors named by layer. Raises `DataError` for one of another."""
    if file.layout == "published":
        return replace(file, tensors=place(file.tensors, cross_attention(unet), str(file.path)), layout="sunlab")
    check_base(file.header, unet, str(file.path))
    return file


def plug_untrained(spec: Mapping[str, Any], unet: torch.nn.Module) -> Adapter:
    """An adapter without tensors of its own, as `nag`, plugged into `unet`. Raises `DataError` for one that has some."""
    adapter = ADAPTERS.build(spec)
    adapter.attach(unet)
    if adapter.tensors():
        adapter.detach()
        raise DataError(f"adapter {spec['name']!r} has to be trained, and no file of it was given")
    return adapter.requires_grad_(False)


def check_base(header: Mapping[str, Any], unet: torch.nn.Module, where: str) -> None:
    """Raise `DataError` where the header states another base, by names, widths and heads of its layers."""
    stated = header.get("base")
    if stated is None:
        return
    found = describe_base(unet)
    if stated["cross_attention"] != found["cross_attention"]:
        raise DataError(
            f"{where}: made for a base of the family {stated.get('family')!r}, this U-Net is of {found['family']!r}: their "
            "cross-attention layers differ; load the base that the adapter was trained on, or a fine-tune of it"
        )


def fill(adapter: Adapter, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into an attached adapter. Raises `DataError` for a missing, unknown or misshapen one."""
    wanted = adapter.tensors()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        told = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("holds unknown", extra)) if names]
        raise DataError(f"{where}: {', '.join(told)}; is it whole, and an adapter of this U-Net's family?")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise DataError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, this U-Net needs "
                f"{tuple(wanted[name].shape)}; is it an adapter of another base family?"
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            wanted[name].copy_(tensor)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
