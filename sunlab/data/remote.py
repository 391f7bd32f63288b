"""Shards elsewhere: fetched whole through fsspec into a local cache, keyed by the whole URL, and read from there."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sunlab.errors import ConfigError, DataError, StorageError
from sunlab.files import lock, locked, remove_leftovers, replacing

# what is read, and the package that fsspec needs for it; no command ("pipe:"), no file of this machine, no chain ("a::b")
SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp"}
SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")
SMALL = 2**28  # bytes of a manifest or index at most


def default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sunlab" / "shards"


def is_remote(url: str) -> bool:
    return SCHEME.match(url) is not None


def check_url(url: str) -> None:
    """Raises `DataError` for a command, or any address that is not in `SCHEMES`."""
    scheme = SCHEME.match(url)
    if scheme is None or scheme[1] not in SCHEMES or not url.startswith(f"{scheme[1]}://") or "::" in url:
        # webdataset would run the rest of "pipe:" in a shell; a shard list from elsewhere must never do that
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise DataError(f"{url!r}: only paths and {known} are read, no commands and no other URLs")


@dataclass(frozen=True)
class Remote:
    """Where URLs are fetched to.

    Attributes:
        folder: of the cache; shared by all processes of the machine.
        limit: bytes that it may hold; the shards that were not read for longest go first.
    """

    folder: Path = field(default_factory=default_folder)
    limit: int = 100 * 2**30

    def local(self, url: str, size: int | None = None) -> Path:
        """The file of a path or URL, fetched unless it is there; `size` in bytes, where it is known.

        Raises:
            DataError: it has another size.
            StorageError: it cannot be fetched, or the cache cannot hold it.
        """
        with self.held(url, size) as path:
            return path

    @contextmanager
    def held(self, url: str, size: int | None = None) -> Iterator[Path]:
        """As `local`; nobody removes the file before the context ends, so that it can be opened. It must not be left open
        while this process asks for the same shard again."""
        if not is_remote(url):
            yield Path(url)
            return
        path = self.folder / f"{sha256(url.encode()).hexdigest()[:32]}-{_tail(url)}"
        while True:
            with ExitStack() as stack:
                try:
                    file = stack.enter_context(locked(_lock_of(path)))
                    if not path.is_file() or size not in (None, path.stat().st_size):
                        self._fetch(url, path, size)
                    os.utime(path)
                    lock(file, shared=True)
                except OSError as error:
                    raise StorageError(f"{url}: cannot be kept in {self.folder}: {error}") from error
                if path.is_file():  # else another process made room while the lock changed
                    yield path
                    return

    def read(self, url: str) -> bytes:
        """A small file beside the shards. Raises `StorageError`."""
        found = self.find(url)
        if found is None:
            raise StorageError(f"{url}: not found")
        return found

    def find(self, url: str) -> bytes | None:
        """As `read`, None where there is none."""
        system = _system(url)
        try:
            return system.cat_file(url, start=0, end=SMALL)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise StorageError(f"{url}: cannot be read: {error!r}") from error

    def glob(self, pattern: str) -> list[str]:
        """The URLs that match, sorted."""
        system = _system(pattern)
        try:
            return sorted(system.unstrip_protocol(name) for name in system.glob(pattern))
        except Exception as error:
            raise StorageError(f"{pattern}: cannot be listed: {error!r}") from error

    def _fetch(self, url: str, path: Path, size: int | None) -> None:
        remove_leftovers(path)  # this process has the lock
        with replacing(path) as temporary:
            with _opened(url) as (source, told), temporary.open("xb") as file:
                expected = told if size is None else size
                self._make_room(expected, url)
                while file.tell() <= (expected or self.limit) and (chunk := _piece(source, url)):
                    file.write(chunk)
            found = temporary.stat().st_size
            if size not in (None, found):
                raise DataError(f"{url}: not the {size:,} bytes that its manifest says; upload it again, or index it again")
            if found != (expected or found) or found > self.limit:
                raise StorageError(f"{url}: {found:,} bytes came of {expected:,}, and the cache may hold {self.limit:,}")
        self._make_room(0, url)  # what others fetched meanwhile was not there before

    def _make_room(self, size: int, url: str) -> None:
        if size > self.limit:
            raise StorageError(f"{url}: {size:,} bytes, the cache may hold {self.limit:,}; raise cache_gb of the source")
        with locked(_lock_of(self.folder / "room")):
            files = [(path, path.stat()) for path in self.folder.glob("[0-9a-f]*-*")]
            held = sum(stat.st_size for _, stat in files)
            for path, stat in sorted(files, key=lambda item: item[1].st_mtime):
                if held + size <= self.limit:
                    return
                with suppress(BlockingIOError), locked(_lock_of(path), patience=0):  # else it is being opened
                    path.unlink(missing_ok=True)  # a process that has it open keeps reading it
                    held -= stat.st_size


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


@contextmanager
def _opened(url: str) -> Iterator[tuple[Any, int]]:
    """The object, and its bytes as it says, else 0. Raises `StorageError`."""
    try:
        source = _system(url).open(url, "rb")
    except ConfigError:
        raise
    except Exception as error:  # each file system raises its own
        raise StorageError(f"{url}: cannot be fetched: {error!r}") from error
    with source:
        yield source, getattr(source, "size", None) or 0


def _piece(source: Any, url: str) -> bytes:
    try:
        return bytes(source.read(2**20))
    except Exception as error:  # as above
        raise StorageError(f"{url}: cannot be fetched: {error!r}") from error


def _system(url: str) -> Any:
    """fsspec's file system of a URL's scheme. Raises `ConfigError` where its package is missing."""
    import fsspec

    check_url(url)
    scheme = url.partition(":")[0]
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise ConfigError(f"{url}: needs a package that is not installed: pip install {SCHEMES[scheme]}") from error


def _tail(url: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", url.rstrip("/").rsplit("/", 1)[-1])[-80:]
