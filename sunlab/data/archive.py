"""An open shard on this machine: its samples by number, and gzip within limits."""

import gzip
import io
from array import array
from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from sunlab.data.index import DIGEST, Index
from sunlab.data.sample import Raw, bad_sample
from sunlab.data.tar import MEMBERS, Damage, content, groups, members
from sunlab.errors import StorageError

EXPANSION, FREE = 200, 2**26  # a compressed shard may unpack to so many times its size, and so many bytes more
GZIP = b"\x1f\x8b"


class Archive:
    """Random access to the samples of a shard. The file may be removed once it is open.

    With an index a sample's bytes are read in one piece and compared with their digest before they are parsed. Without one
    the headers of the shard are read first. A compressed shard is unpacked into a temporary file.

    Args:
        path: of the file.
        index: of the shard, or None.
        shard: its name in errors.

    Raises:
        StorageError: the file cannot be read.
    """

    def __init__(self, path: Path, index: Index | None, shard: str):
        self.index, self.shard = index, shard
        self.starts, self.problem = array("q"), "the shard has fewer samples"
        try:
            self.file: IO[bytes] = path.open("rb", buffering=0)
            if self.file.read(2) == GZIP:
                self._unpack(path)
            if index is None:
                self._scan()
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from error

    def load(self, number: int, suffixes: Collection[str] = MEMBERS) -> Raw:
        """The sample with this number, its members of these suffixes.

        Raises:
            BadSample: it is damaged, or its bytes are not those that were indexed.
            StorageError: the file cannot be read.
        """
        key = self.index.keys[number] if self.index else f"#{number}"
        try:
            if self.index is not None:
                return self._verified(self.index, number, suffixes)
            if number >= len(self.starts):
                raise Damage(self.problem)
            key, parts = next(groups(members(self.file, base=self.starts[number])))
            return Raw(key, content(self.file, parts, suffixes))
        except (Damage, StopIteration) as damage:
            raise bad_sample(self.shard, key, "damaged shard", str(damage)) from None
        except OSError as error:
            raise StorageError(f"{self.shard}: {error.strerror or error}") from error

    def _verified(self, index: Index, number: int, suffixes: Collection[str]) -> Raw:
        start, stop, key = int(index.offsets[number]), int(index.offsets[number + 1]), index.keys[number]
        self.file.seek(start)
        data = self.file.read(stop - start)
        if sha256(data).digest()[:DIGEST] != index.digests[number].tobytes():
            cut = "cut short" if len(data) < stop - start else "its bytes are not those that were indexed"
            raise bad_sample(self.shard, key, "altered bytes", cut)
        region = io.BytesIO(data)
        found, parts = next(groups(members(region, whole=False)))
        if found != key:
            raise bad_sample(self.shard, key, "altered bytes", f"its key is {found!r}")
        return Raw(found, content(region, parts, suffixes))

    def _scan(self) -> None:
        try:
            for _, parts in groups(members(self.file)):
                self.starts.append(next(iter(parts.values())).start)
        except Damage as damage:
            self.problem = str(damage)

    def _unpack(self, path: Path) -> None:
        target: Any = SpooledTemporaryFile(FREE)  # noqa: SIM115 -- closed with the archive
        with self.file, open_tar(path) as source:
            self.file = target
            try:
                while chunk := source.read1(2**20):  # type: ignore[attr-defined]
                    target.write(chunk)
            except Damage as damage:
                self.problem = str(damage)

    def __del__(self) -> None:  # held by the samples that are still to be read of it
        if hasattr(self, "file"):
            self.file.close()


def largest(size: int) -> int:
    """Bytes that a shard of `size` bytes may unpack to."""
    return size * EXPANSION + FREE


def open_tar(path: Path) -> IO[bytes]:
    """The archive's bytes, unpacked on the way where it is compressed by gzip; nothing else is unpacked."""
    return unpacked(io.BufferedReader(path.open("rb", buffering=0), 2**18), path.stat().st_size)


def unpacked(file: "io.BufferedReader[Any]", size: int) -> IO[bytes]:
    """The same of an open file of `size` bytes, at its start."""
    return _Unpacked(file, largest(size)) if file.peek(2)[:2] == GZIP else file  # type: ignore[return-value]


class _Unpacked(gzip.GzipFile):
    """A gzip file of limited size. Damage to the stream itself is `Damage`."""

    def __init__(self, packed: IO[bytes], limit: int):
        super().__init__(fileobj=packed, mode="rb")
        self.limit, self.packed = limit, packed

    def read(self, size: int | None = -1) -> bytes:
        return self._guarded(super().read, size)

    def read1(self, size: int = -1) -> bytes:
        return self._guarded(super().read1, size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._guarded(super().seek, min(offset, self.limit + 1), whence)

    def close(self) -> None:
        super().close()
        self.packed.close()

    def _guarded(self, act: Callable[..., Any], *given: Any) -> Any:
        try:
            found = act(*given)
        except (EOFError, gzip.BadGzipFile, gzip.zlib.error) as error:  # type: ignore[attr-defined]
            raise Damage(f"bad gzip stream: {error}") from None
        if super().seek(0, io.SEEK_CUR) > self.limit:
            raise Damage(f"unpacks to more than {self.limit:,} bytes")
        return found
