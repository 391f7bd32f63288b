"""A remote file read forward as it arrives, through fsspec, and resumed where it broke off."""

import io
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sunlab.data.remote import SCHEMES, check_url
from sunlab.errors import ConfigError, StorageError

TRIES = 5  # in a row without a byte
WAIT = 0.5  # seconds before the second try, doubled before each further one
PLAIN = {"Accept-Encoding": "identity"}
CONNECT, STALL = 30.0, 60.0  # seconds for a connection, and without a byte


class Arriving(io.RawIOBase):
    """The object at a URL, from its first byte to its last. One request where nothing fails; after a server's error, a
    reset, a stall or a short body, another one for the rest (a Range request over HTTP), with exponential back-off.

    Args:
        url: of a scheme in `sunlab.data.remote.SCHEMES`.

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
        system = file_system(self.url)
        if not self.url.startswith("http"):
            self.file = system.open(self.url, "rb")
            self.size = self.size or int(getattr(self.file, "size", None) or 0)
            self.file.seek(self.position)
            return
        # a size of its own choice spares fsspec a request for it
        headers = {"Range": f"bytes={self.position}-"} if self.position else {}
        self.file = system.open(
            self.url, "rb", block_size=0, size=1, headers={**headers, **PLAIN}
        )  # no request for the size
        response = self.file.r
        if response.status >= 400:
            raise OSError(f"HTTP {response.status}")
        if not self.position:
            self.size = int(response.headers.get("Content-Length") or 0)
        elif response.status != 206:  # no ranges there: what was read comes again
            left = self.position
            while left and (passed := self.file.read(min(left, 2**20))):
                left -= len(passed)

    def _retrying(self, act: Callable[[], Any]) -> Any:
        while True:
            try:
                found = act()
            except ConfigError:
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
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=STALL)
        return fsspec.filesystem(scheme, client_kwargs={"timeout": timeout})
    except ImportError as error:
        raise ConfigError(f"{url}: needs a package that is not installed: pip install {SCHEMES[scheme]}") from error
