"""Files that a reader finds whole or not at all."""

import codecs
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from sunlab.errors import ConfigError, StorageError

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of a file system; Lustre mounted without `flock`, for one


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what stands there in the end takes its place.

    Raises:
        StorageError: it cannot be written. What was there is left as it was.
    """
    from safetensors import SafetensorError  # which also says that a disk is full

    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(open_to_readers(temporary), path)
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


def write_text(path: Path, text: str) -> None:
    """Write beside the final name, flush, rename. Raises `StorageError`."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


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
    """Keep a folder for this process. The system lets go when the process ends, however it ends. On a file system without
    locks nothing is kept.

    Args:
        name: of the file in it that is locked.
        patience: seconds in which another may still let go: a reader of the lock, loader workers of a killed process, or a
            file server that holds the lock of a machine that died.

    Raises:
        ConfigError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("ab") as file:
        until = time.monotonic() + patience
        while not _locked(file):
            if time.monotonic() > until:
                raise ConfigError(f"{folder}: another process is at work here; wait for it or stop it")
            time.sleep(0.1)
        yield


def _locked(file: IO[bytes]) -> bool:
    """Whether nobody else has it. It is locked then, where the file system can."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
