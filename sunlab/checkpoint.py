"""Checkpoints that a crash cannot destroy and that damage cannot pass: written beside their final name, flushed, sealed with
their SHA-256, renamed; the one before is kept; verified before anything of them is used, and read weights-only.

The file is the zip archive of `torch.save`, and the archive's comment holds the SHA-256 of every byte before it, so that
other programs open it as ever.
"""

import hashlib
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.rank_zero import rank_zero_only

from sunlab.errors import ConfigError, StorageError
from sunlab.files import remove_leftovers, replacing

MARK = b"sunlab sha256 "
COMMENT = len(MARK) + 64  # bytes
CODE = ("_instantiator", "_target_")  # keys by which Lightning's or Hydra's files name something to call


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, whole or not at all. What `path` held before becomes `previous_of(path)`."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[Path, tuple[int, ...]] = {}  # identity of the files that this process wrote, and so trusts

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises `StorageError`; the former file is then still there."""
        path = Path(path)
        try:
            remove_leftovers(path)  # one rank alone writes
            with replacing(path) as temporary:
                with open(temporary, "x+b") as file:
                    torch.save(checkpoint, file)
                    seal(file)
                if path.is_file() and self._is_sound(path):
                    _keep(path)
            self._written[path] = _identity(path)
        except Exception as error:
            cause = _os_error(error)
            if cause is None:
                raise
            raise StorageError(f"cannot write the checkpoint {path}: {cause}; the previous one is intact") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Raises `StorageError` for a file that is missing, damaged, or holds more than tensors and plain values."""
        verify(Path(path))
        try:
            loaded = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:
            raise StorageError(f"{path} is not a readable checkpoint of tensors and plain values: {error}") from error
        if not isinstance(loaded, dict) or "state_dict" not in loaded:
            raise StorageError(f"{path} is not a checkpoint of a training: it holds no state_dict")
        named = _code(loaded)
        if named:
            raise StorageError(f"{path} is refused: its key {named!r} names code to call, which no checkpoint may do")
        return loaded

    def _is_sound(self, path: Path) -> bool:
        if self._written.get(path) == _identity(path):
            return True
        try:
            verify(path)
        except StorageError:
            return False
        return True


def seal(file: BinaryIO) -> None:
    """Put into the comment of the zip archive in `file`, open for reading and writing, the SHA-256 of all before it."""
    file.seek(-2, os.SEEK_END)  # an archive without a comment ends with the comment's length
    file.write(COMMENT.to_bytes(2, "little"))
    digest = _digest(file, file.seek(0, os.SEEK_END))
    file.seek(0, os.SEEK_END)
    file.write(MARK + digest.encode())


def verify(path: Path) -> None:
    """Check every byte of a checkpoint, without unpickling any.

    Raises:
        StorageError: there is none, it is damaged, or it is not one that sunlab wrote.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - COMMENT
            file.seek(max(size, 0))
            comment = file.read()
            if size <= 0 or not comment.startswith(MARK):
                raise StorageError(f"{path} is damaged, or not a checkpoint of sunlab's: it does not end with its SHA-256")
            if comment[len(MARK) :] != _digest(file, size).encode():
                raise StorageError(f"{path} is damaged: its bytes do not have the SHA-256 that it states")
            members = zipfile.ZipFile(file).infolist()
    except FileNotFoundError as error:
        raise StorageError(f"no checkpoint {path}") from error
    except OSError as error:
        raise StorageError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise StorageError(f"{path} is not a readable checkpoint: {error}") from error
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed or sum(member.file_size for member in members) > size:
        raise StorageError(f"{path} is refused: its members are compressed, which none of sunlab's are")


def resume_path(resume: str | None, folder: Path) -> Path | None:
    """The checkpoint that `--resume` names: `last` is the newest sound one of the run in `folder`, so the one before where
    the newest is damaged or gone, which is then said on stderr; `auto` is the same, or None where there is none yet.

    Raises:
        ConfigError: there is none.
        StorageError: there are some, and none is sound.
    """
    if resume is None:
        return None
    newest = resume in ("last", "auto")
    path = folder / "checkpoints" / "last.ckpt" if newest else Path(resume)
    candidates = [p for p in ([path, previous_of(path)] if newest else [path]) if p.is_file()]
    if not candidates and resume == "auto":
        return None
    if not candidates:
        raise ConfigError(f"--resume {resume}: no checkpoint at {path}; start the run without --resume")
    problems = [] if path in candidates else [f"there is no {path}"]
    for candidate in candidates:
        try:
            verify(candidate)
        except StorageError as error:
            problems.append(str(error))
            continue
        if problems and not getattr(rank_zero_only, "rank", 0):
            print(f"warning: {'; '.join(problems)}; going on from the one before, {candidate}", file=sys.stderr)
        return candidate
    beside = previous_of(path)
    hint = f"--resume {beside}" if beside.is_file() and beside not in candidates else "start the run without --resume"
    raise StorageError(f"{'; '.join(problems)}; {hint}")


def previous_of(path: Path) -> Path:
    """Where the checkpoint is kept that `path` held before: last.previous.ckpt."""
    return path.with_suffix(f".previous{path.suffix}")


def _keep(path: Path) -> None:
    """A second name for `path`, so that a file of that name is there at every moment."""
    link = path.with_name(f".{path.name}.kept")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # no hard links here: for a moment only the previous one is there, and `last` finds it
        link = path
    os.replace(link, previous_of(path))
    if link != path:
        link.unlink(missing_ok=True)  # replacing a second name of the same file, which a killed process left, does nothing


def _digest(file: BinaryIO, size: int) -> str:
    """SHA-256 of the first `size` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (chunk := file.read(min(size, 1 << 20))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _identity(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _code(value: Any) -> str | None:
    """The first key of `CODE` anywhere in plain values."""
    if isinstance(value, Mapping):
        named = next((key for key in value if key in CODE), None)
        return named or next((found for inner in value.values() if (found := _code(inner))), None)
    return next((found for inner in value if (found := _code(inner))), None) if isinstance(value, list | tuple) else None


def _os_error(error: BaseException | None) -> OSError | None:
    """The error of the file system behind `error`; torch reports it as a RuntimeError of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
