"""How many samples each shard holds: from `manifest.json` beside the shards, or counted once."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunlab.data.tar import samples_of
from sunlab.errors import DataError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """A tar file, its samples (the first so many are read), its size in bytes and its SHA-256 where it is known."""

    path: Path
    samples: int
    bytes: int
    sha256: str | None = None


def shards_of(paths: Iterable[Path]) -> list[Shard]:
    """The shards at `paths`, counted.

    Raises:
        DataError: where a manifest is unreadable, or a shard's size is not what the manifest says.
    """
    paths, found = list(paths), []
    manifests = {folder: _entries(folder) for folder in {path.parent for path in paths}}
    for path in paths:
        entries = manifests[path.parent]
        if path.name in entries:
            found.append(_described(path, entries[path.name]))
        else:
            found.append(Shard(path, sum(1 for _ in samples_of(path)), path.stat().st_size))
    return found


def _described(path: Path, entry: Mapping[str, Any]) -> Shard:
    samples, size = entry.get("samples"), entry.get("bytes")
    if type(samples) is not int or samples < 0 or type(size) is not int:
        raise DataError(f"{path.parent / MANIFEST}: {path.name} needs whole numbers 'samples' and 'bytes'; rebuild it")
    if path.stat().st_size != size:
        raise DataError(
            f"{path}: {path.stat().st_size:,} bytes, but {MANIFEST} says {size:,}: the shard was cut short or replaced; "
            "copy it again, or rebuild the manifest"
        )
    return Shard(path, samples, size, entry.get("sha256"))


def _entries(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        return {entry["file"]: entry for entry in json.loads(path.read_text())["shards"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a manifest ({error!r}); rebuild it, or delete it to have shards counted") from None
