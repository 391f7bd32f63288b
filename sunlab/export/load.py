"""Putting a file's tensors into a U-Net."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunlab.adapters import ADAPTERS, Adapter
from sunlab.errors import DataError
from sunlab.export.file import read_adapter
from sunlab.export.published import place
from sunlab.export.shapes import cross_attention, describe_base


def load_adapter(
    path: str | Path, unet: torch.nn.Module, *, over: Mapping[str, Any] | None = None
) -> tuple[Adapter, Mapping[str, Any]]:
    """The adapter of a file, plugged into `unet`, and the file's header.

    The adapter's kind is looked up among the registered ones; a file cannot name anything to import.

    Args:
        over: an adapter that is not trained and stacks on the file's, as `nag`, by name and parameters.

    Raises:
        DataError: a damaged file, or one for another base, by name.
    """
    file = read_adapter(path)
    tensors = file.tensors
    if file.layout == "published":
        tensors = place(tensors, cross_attention(unet), str(path))
    spec = file.header["adapter"]
    adapter = ADAPTERS.build(spec if over is None else {**over, "inner": spec}, key=f"{path}: adapter")
    adapter.attach(unet)
    try:
        fill(adapter, tensors, str(path))
        check_base(file.header, unet, str(path))
    except DataError:
        adapter.detach()
        raise
    return adapter.requires_grad_(False), file.header


def plug_untrained(spec: Mapping[str, Any], unet: torch.nn.Module) -> Adapter:
    """An adapter without tensors of its own, as `nag`, plugged into `unet`. Raises `DataError` for one that has some."""
    adapter = ADAPTERS.build(spec)
    adapter.attach(unet)
    if adapter.tensors():
        adapter.detach()
        raise DataError(f"adapter {spec['name']!r} has to be trained, and no file of it was given")
    return adapter.requires_grad_(False)


def check_base(header: Mapping[str, Any], unet: torch.nn.Module, where: str) -> None:
    """Raise `DataError` where the header states another base. Widths that differ are named by `fill` before; what is left
    is the number of heads, which no tensor shows."""
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
        for name, tensor in tensors.items():
            wanted[name].copy_(tensor)
