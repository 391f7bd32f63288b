"""Members of a tar shard, grouped to undecoded samples."""

import tarfile
import zlib
from collections.abc import Iterator
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_iterator

from sunlab.errors import DataError, StorageError

IMAGES = ("png", "webp", "jpg", "jpeg")
LATENT = "latent.safetensors"
MEMBERS = frozenset({*IMAGES, "txt", "json", LATENT})  # nothing else is even read: no pickles, no arrays


def samples_of(path: Path, members: frozenset[str] = MEMBERS) -> Iterator[dict[str, Any]]:
    """The undecoded samples of a shard, in its order: `__key__` and the bytes of each member by its suffix.

    Raises:
        DataError: the tar is damaged or holds a file name twice.
        StorageError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = tar_file_iterator(file, select_files=lambda name: _suffix(name) in members)
            yield from group_by_keys({**member, "__url__": str(path)} for member in found)
    except (tarfile.TarError, BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path}: damaged shard ({_first(error)}); copy or build it again") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _suffix(name: str) -> str | None:
    suffix = base_plus_ext(name)[1]
    return suffix and suffix.lower()


def _first(error: Exception) -> str:
    return str(error.args[0]).partition(" @ ")[0] if error.args else type(error).__name__
