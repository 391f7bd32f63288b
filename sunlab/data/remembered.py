"""What a pass over all shards found, kept on the disk: made by one process while the others of the machine wait."""

import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sunlab.errors import StorageError
from sunlab.files import locked, replacing


class Found(NamedTuple):
    """Arrays by name, and plain values."""

    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]


def remembered(folder: Path, name: str, make: Callable[[], Found]) -> Found:
    """What `make` found when it was called under this name, on this machine, for the first time.

    Args:
        folder: where such files are kept; where it cannot be written, `make` is called every time.
        name: made of everything that the result depends on.
    """
    path = folder / f"{name}.safetensors"
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / f".{name}.lock"))
            kept = True
        except OSError:
            kept = False
        if kept:
            found = _read(path)
            if found is not None:
                return found
        found = make()
        if kept:
            _write(path, found)
        return found


def _read(path: Path) -> Found | None:
    try:
        with safe_open(path, framework="numpy") as file:
            return Found({key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["notes"]))  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _write(path: Path, found: Found) -> None:
    with suppress(StorageError), replacing(path) as temporary:  # else it is made again next time
        save_file(found.arrays, temporary, {"notes": json.dumps(found.notes)})
