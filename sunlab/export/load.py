"""Attaching the adapter of a file to a network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunlab.adapters import ADAPTERS, Adapter
from sunlab.backbones.attention import Adaptable
from sunlab.errors import ConfigError, DataError
from sunlab.export.file import AdapterFile, read_adapter
from sunlab.export.published import place
from sunlab.export.shapes import describe_base, layers_of


def load_adapter(
    file: str | Path | AdapterFile, backbone: Adaptable, *, over: Mapping[str, Any] | None = None
) -> tuple[Adapter, Mapping[str, Any]]:
    """The adapter of a file, attached to `backbone`, and the file's header.

    The adapter's kind is looked up among the registered ones; a file cannot name anything to import.

    Args:
        file: its path, or what was read of it.
        over: an adapter that is not trained and stacks on the file's, as `nag`, by name and parameters.

    Raises:
        DataError: a damaged file, or one for another base, by name.
    """
    read = fitted(file if isinstance(file, AdapterFile) else read_adapter(file), backbone)
    adapter = adapter_of(read, over=over)
    adapter.attach(backbone)
    try:
        fill(adapter, read.tensors, str(read.path))
    except DataError:
        adapter.detach()
        raise
    return adapter.requires_grad_(False), read.header


def begin_with(file: str | Path, adapter: Adapter, backbone: Adaptable) -> Mapping[str, Any]:
    """Copy a file's weights into an adapter that is attached to `backbone` and is then trained. Returns the file's header.

    Raises:
        ConfigError: the file's adapter is of another kind, or has other switches, than `adapter`.
        DataError: a damaged file, or one for another base.
    """
    read = fitted(read_adapter(file), backbone)
    asked, given = adapter.spec, adapter_of(read).spec
    keys = sorted({*asked, *given}) if asked["name"] == given["name"] else ["name"]
    if other := [key for key in keys if asked.get(key) != given.get(key)]:
        stated = ", ".join(f"{key}: {given.get(key)!r}" for key in other)
        raise ConfigError(
            f"task.start: {read.path} was trained with {stated}; set adapter likewise, or start from another file"
        )
    fill(adapter, read.tensors, str(read.path))
    return read.header


def adapter_of(file: AdapterFile, *, over: Mapping[str, Any] | None = None) -> Adapter:
    """The adapter that a file describes, without its tensors. Args and Raises: see `load_adapter`."""
    spec = file.header["adapter"]
    return ADAPTERS.build(spec if over is None else {**over, "inner": spec}, key=f"{file.path}: adapter")


def fitted(file: AdapterFile, backbone: Adaptable) -> AdapterFile:
    """The file, known to be of this network's family, its tensors named by layer. Raises `DataError` for one of another."""
    if file.layout == "published":
        return replace(file, tensors=place(file.tensors, layers_of(backbone), str(file.path)), layout="sunlab")
    check_base(file.header, backbone, str(file.path))
    return file


def attach_untrained(spec: Mapping[str, Any], backbone: Adaptable) -> Adapter:
    """An adapter without tensors of its own, as `nag`, attached to `backbone`. Raises `DataError` for one that has some."""
    adapter = ADAPTERS.build(spec)
    adapter.attach(backbone)
    if adapter.tensors():
        adapter.detach()
        raise DataError(f"adapter {spec['name']!r} has to be trained, and no file of it was given")
    return adapter.requires_grad_(False)


def check_base(header: Mapping[str, Any], backbone: Adaptable, where: str) -> None:
    """Raise `DataError` where the header states another base: by names, widths and heads of its layers, and by family and
    path where both are known."""
    stated = header.get("base")
    if stated is None:
        return
    found = describe_base(backbone)
    if stated["cross_attention"] != found["cross_attention"]:
        raise DataError(
            f"{where}: made for a base of the family {stated.get('family')!r}, this network is of {found['family']!r}: "
            "their cross-attention layers differ; load the base that the adapter was trained on, or a fine-tune of it"
        )
    for key, what in (("backbone", "a base of the family"), ("path", "the path")):
        theirs, ours = (described.get(key) for described in (stated, found))
        theirs, ours = (value.get("name") if isinstance(value, Mapping) else value for value in (theirs, ours))
        if theirs is not None and ours is not None and theirs != ours:
            raise DataError(
                f"{where}: made for {what} {theirs!r}, this network is of {ours!r}; load the base that the adapter was "
                "trained on, or a fine-tune of it"
            )


def fill(adapter: Adapter, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into an attached adapter. Biases, which files of before 0.3 do not have, are zero without. Raises
    `DataError` for a missing, unknown or misshapen one."""
    wanted = adapter.tensors()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    lacking = [name for name in missing if not name.endswith(".bias")]
    if lacking or extra:
        problems = [f"{what} {_some(names)}" for what, names in (("lacks", lacking), ("holds unknown", extra)) if names]
        raise DataError(f"{where}: {', '.join(problems)}; is it whole, and an adapter of this network's family?")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise DataError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, this network needs "
                f"{tuple(wanted[name].shape)}; is it an adapter of another base family?"
            )
    with torch.no_grad():
        for name in missing:
            wanted[name].zero_()
        for name, tensor in tensors.items():
            wanted[name].copy_(tensor)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
