"""Files elsewhere, by HTTP or fsspec: read forward as they arrive, or fetched whole into a cache keyed by the whole URL."""

import io
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sunlab.data.web import open_http
from sunlab.errors import ConfigError, DataError, StorageError
from sunlab.files import lock, locked, remove_leftovers, replacing

# what is read, and the package that fsspec needs for it; no command ("pipe:"), no file of this machine, no chain ("a::b")
SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp"}
SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")
SMALL = 2**28  # bytes of a manifest or index at most
BLOCK = 2**22  # bytes of a request to an object store
TRIES = 5  # in a row without a byte
WAIT = 0.5  # seconds before the second try, doubled before each further one
STALL = 60.0  # seconds for a connection, and without a byte


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


def file_system(url: str) -> Any:
    """fsspec's file system of a URL's scheme, with time-outs. Raises `ConfigError` where its package is missing."""
    import fsspec

    check_url(url)
    scheme = url.partition(":")[0]
    try:
        if scheme not in ("http", "https"):
            return fsspec.filesystem(scheme)
        import aiohttp

        # aiohttp's own limit of five minutes for a whole object would end every shard that is read slowly
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=STALL, sock_read=STALL)
        return fsspec.filesystem(scheme, client_kwargs={"timeout": timeout})
    except ImportError as error:
        raise ConfigError(f"{url}: needs a package that is not installed: pip install {SCHEMES[scheme]}") from error


class Arriving(io.RawIOBase):
    """The object at a URL, from its first byte to its last. One request where nothing fails; after a server's error, a
    reset, a stall or a short body, another one for the rest (a Range request over HTTP), with exponential back-off.

    Args:
        url: of a scheme in `SCHEMES`.

    Raises:
        StorageError: it is not there, it may not be read, or it failed `TRIES` times in a row.
    """

    def __init__(self, url: str):
        self.url = url
        self.position, self.size, self.failed = 0, 0, 0
        self.file: Any = None
        self._retrying(self._open)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._retrying(lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def close(self) -> None:
        if getattr(self, "file", None) is not None:
            with suppress(Exception):
                self.file.close()
            self.file = None
        super().close()

    def _read(self, most: int) -> bytes:
        if self.file is None:
            self._open()
        data = bytes(self.file.read(most))
        if not data and self.position < self.size:
            raise EOFError(f"{self.position:,} of {self.size:,} bytes came")
        return data

    def _open(self) -> None:
        check_url(self.url)
        if not self.url.startswith("http"):
            self.file = file_system(self.url).open(self.url, "rb", block_size=BLOCK)
            self.size = self.size or int(getattr(self.file, "size", None) or 0)
            self.file.seek(self.position)
            return
        self.file = open_http(self.url, self.position, STALL)
        if not self.position:
            self.size = int(self.file.headers.get("Content-Length") or 0)
        elif self.file.status != 206:  # no ranges there: what was read comes again
            left = self.position
            while left and (passed := self.file.read(min(left, 2**20))):
                left -= len(passed)

    def _retrying(self, act: Callable[[], Any]) -> Any:
        while True:
            try:
                found = act()
            except (ConfigError, DataError):
                raise
            except Exception as error:  # each file system raises its own
                self._failed(error)
            else:
                self.failed = 0
                return found

    def _failed(self, error: Exception) -> None:
        if self.file is not None:
            with suppress(Exception):
                self.file.close()
            self.file = None
        self.failed += 1
        status = getattr(error, "status", 0)
        final = isinstance(error, FileNotFoundError | PermissionError) or (400 <= status < 500 and status not in (408, 429))
        if final or self.failed >= TRIES:
            raise StorageError(f"{self.url}: cannot be read from byte {self.position:,}: {error!r}") from error
        logging.getLogger("sunlab.data").info("%s: %r; trying again from byte %d", self.url, error, self.position)
        time.sleep(WAIT * 2 ** (self.failed - 1))


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
        try:
            with io.BufferedReader(Arriving(url)) as file:
                return file.read(SMALL)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def glob(self, pattern: str) -> list[str]:
        """The URLs that match, sorted."""
        system = file_system(pattern)
        try:
            return sorted(system.unstrip_protocol(name) for name in system.glob(pattern))
        except Exception as error:
            raise StorageError(f"{pattern}: cannot be listed: {error!r}") from error

    def _fetch(self, url: str, path: Path, size: int | None) -> None:
        remove_leftovers(path)  # this process has the lock
        with replacing(path) as temporary:
            with Arriving(url) as source, temporary.open("xb") as file:
                expected = source.size if size is None else size
                self._make_room(expected, url)
                while file.tell() <= (expected or self.limit) and (chunk := source.read(2**20)):
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


def _tail(url: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", url.rstrip("/").rsplit("/", 1)[-1])[-80:]
