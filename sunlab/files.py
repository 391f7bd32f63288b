"""Atomic writes and file locks: the only place that renames a file or locks one."""

import codecs
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any

from sunlab.errors import ConfigError, StorageError

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of a file system; Lustre mounted without `flock`, for one


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file atomically: yields a temporary name in the same folder. At the end of the block the file of that name is
    flushed to the disk and renamed to `path`.

    Raises:
        StorageError: the file cannot be written. The former file is unchanged.
    """
    from safetensors import SafetensorError  # raised on a full disk, too

    temporary = path.with_name(f".{path.name}.{os.getpid()}.{socket.gethostname()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a link of that name is not followed
        yield temporary
        _sync(open_to_readers(temporary))
        os.replace(temporary, path)
        with suppress(OSError):  # not every file system can flush a folder
            _sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def decode_text(data: bytes) -> str:
    """UTF-8, or UTF-16 or UTF-32 where the data begin with that byte order mark; the mark itself is left out.

    Raises:
        UnicodeDecodeError: bytes that are not text in that encoding.
    """
    marks = [(codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")]  # first: UTF-32's mark begins with UTF-16's
    marks += [(codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")]
    return data.decode(next((name for mark, name in marks if data.startswith(mark)), "utf-8-sig"))


def read_text(path: Path) -> str:
    """A text file as `decode_text` reads it. Raises `OSError` or `UnicodeDecodeError`."""
    return decode_text(path.read_bytes())


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files of `path` that killed processes left. Only for a caller that alone writes `path`."""
    for stale in path.parent.glob(f".{escape(path.name)}.[0-9]*"):
        stale.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically. Raises `StorageError`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, in UTF-8. Raises `StorageError`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The file's value, or None where there is no file. Raises `StorageError` for one that holds something else."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error


def open_to_readers(path: Path) -> Path:
    """Give a file the permissions that any new file has: safetensors makes files that only their owner may read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    return path


@contextmanager
def hold(folder: Path, name: str = "lock", *, patience: float = 0.4) -> Iterator[None]:
    """Lock a folder for this process.

    Args:
        name: of the lock file in the folder.
        patience: seconds to wait for another process: a reader of the lock, dataloader workers of a killed process, or a
            file server that still holds the lock of a dead machine.

    Raises:
        ConfigError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a+b") as file:
        if lock(file, patience=patience) is False:
            raise ConfigError(f"{folder}: another process is at work here; wait for it or stop it")
        yield


@contextmanager
def locked(path: Path, *, patience: float | None = None) -> Iterator[IO[bytes]]:
    """Open a file to read and append, and lock it until the block ends. Args: patience, see `lock`.

    Raises:
        BlockingIOError: another process holds the lock after `patience` seconds.
        OSError: the file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if lock(file, patience=patience) is False:
            raise BlockingIOError(errno.EWOULDBLOCK, "another process holds the lock", str(path))
        yield file


def lock(file: IO[Any], *, shared: bool = False, patience: float | None = None) -> bool | None:
    """Lock an open file until it is closed; a second call changes the kind of lock. The system releases it when the process
    ends, however it ends.

    Args:
        shared: several processes may hold a shared lock.
        patience: seconds to wait for other processes; None waits without a limit.

    Returns:
        True: locked. False: another process holds the lock. None: the file system has no locks.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if patience is None else fcntl.LOCK_NB)
    until = time.monotonic() + (patience or 0.0)
    while True:
        try:
            fcntl.flock(file, how)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.1)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return None


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
