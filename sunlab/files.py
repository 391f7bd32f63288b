"""Small files that a reader finds whole or not at all."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sunlab.errors import ConfigError, StorageError


def write_text(path: Path, text: str) -> None:
    """Write beside the final name, flush, rename. Raises `StorageError`."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The file's value, or None where there is no file. Raises `StorageError` for one that holds something else."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
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
    """Keep a folder for this process. The system lets go when the process ends, however it ends.

    Args:
        name: of the file in it that is locked.
        patience: seconds in which another may still let go: a reader of the lock, or loader workers of a killed process.

    Raises:
        ConfigError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("ab") as file:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise ConfigError(f"{folder}: another process is at work here; wait for it or stop it") from None
                time.sleep(0.1)
        yield
