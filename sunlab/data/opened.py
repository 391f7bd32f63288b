"""An open shard: its samples by their place in it, each verified before it is handed on where the shard has an index."""

import gzip
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from sunlab.data.index import Index
from sunlab.data.tar import MEMBERS, Damage, Member, content, groups, members
from sunlab.errors import DataError, StorageError

EXPANSION, FREE = 200, 2**26  # a compressed shard may unpack to so many times its size, and so many bytes more


class Raw(NamedTuple):
    """An undecoded sample: its key, and the bytes of its members by suffix."""

    key: str
    members: dict[str, bytes]


class BadSample(DataError):
    """A sample that cannot be used. `reason` is short and countable, `key` and `shard` say where it is."""

    def __init__(self, message: str, *, shard: str = "", key: str = "", reason: str = ""):
        super().__init__(message)
        self.shard, self.key, self.reason = shard, key, reason


def bad_sample(shard: str, key: str, reason: str, detail: str) -> BadSample:
    text = f"{shard}: sample {key!r}: {reason} ({detail}); rebuild the shard without it, or set on_error=quarantine"
    return BadSample(text, shard=shard, key=key, reason=reason)


Load = Callable[[], Raw]  # raises BadSample


def loads_of(
    path: Path,
    index: Index | None,
    wanted: Sequence[int],
    shard: str,
    suffixes: Collection[str] = MEMBERS,
) -> Iterator[Load | BadSample]:
    """How to read the samples numbered `wanted` (rising) of a shard, in this order: with an index nothing is read before
    it is asked for; without one the bytes are there already. The file is opened at once, and may be removed then.

    Where an archive without an index is damaged, the samples that cannot be found any more are each a `BadSample`.

    Args:
        shard: the name that errors give.
        suffixes: of the members that are handed on.

    Raises:
        StorageError: the file cannot be read.
    """
    part = _Part(shard, frozenset(suffixes))
    try:
        if index is not None and path.suffix not in (".gz", ".tgz"):
            return iter(_Regions(path, index, part).loads(wanted))
        return _in_order(open_tar(path), index, wanted, part)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


class _Part(NamedTuple):
    """What is read of a shard's samples."""

    shard: str
    suffixes: frozenset[str]

    def of(self, file: IO[bytes], parts: dict[str, Member]) -> dict[str, bytes]:
        return content(file, parts, self.suffixes)


def _in_order(file: IO[bytes], index: Index | None, wanted: Sequence[int], part: _Part) -> Iterator[Load | BadSample]:
    given, problem = 0, "the shard has fewer samples"
    try:
        with closing(file):
            if index is not None:
                for number in wanted:
                    raw = _verified(file, index, number, part)
                    given += 1
                    yield raw if isinstance(raw, BadSample) else (lambda raw=raw: raw)  # type: ignore[misc]
                return
            found, number = groups(members(file)), -1
            for target in wanted:
                key, parts = next(islice(found, target - number - 1, None))
                number, raw = target, Raw(key, part.of(file, parts))
                given += 1
                yield lambda raw=raw: raw  # type: ignore[misc]
            return
    except StopIteration:
        pass
    except Damage as damage:
        problem = str(damage)
    except OSError as error:
        raise StorageError(f"{part.shard}: {error.strerror or error}") from error
    for number in wanted[given:]:
        yield bad_sample(part.shard, index.keys[number] if index else f"#{number}", "damaged shard", problem)


class _Regions:
    """A plain tar with an index, read by region."""

    def __init__(self, path: Path, index: Index, part: _Part):
        self.path, self.index, self.part = path, index, part
        self.file = path.open("rb", buffering=0)

    def loads(self, wanted: Sequence[int]) -> Iterator[Load]:
        for number in wanted:
            yield partial(self.load, number)

    def load(self, number: int) -> Raw:
        try:
            raw = _verified(self.file, self.index, number, self.part)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror or error}") from error
        if isinstance(raw, BadSample):
            raise raw
        return raw

    def __del__(self) -> None:  # held by what is still to be read of it
        if hasattr(self, "file"):
            self.file.close()


def _verified(file: IO[bytes], index: Index, number: int, part: _Part) -> Raw | BadSample:
    """One sample by its index: every byte of it, headers and padding too, is checked before it is parsed."""
    start, stop, key = int(index.offsets[number]), int(index.offsets[number + 1]), index.keys[number]
    shard = part.shard
    try:
        file.seek(start)
        data = file.read(stop - start)
    except Damage as damage:
        return bad_sample(shard, key, "damaged shard", str(damage))
    if sha256(data).digest()[: index.digests.shape[1]] != index.digests[number].tobytes():
        cut = "cut short" if len(data) < stop - start else "its bytes are not those that were indexed"
        return bad_sample(shard, key, "altered bytes", cut)
    region = io.BytesIO(data)
    try:
        found, parts = next(groups(members(region, whole=False)))
        if found != key:
            return bad_sample(shard, key, "altered bytes", f"its key is {found!r}")
        return Raw(found, part.of(region, parts))
    except (Damage, StopIteration) as damage:
        return bad_sample(shard, key, "damaged shard", str(damage))


def largest(size: int) -> int:
    """Bytes that a shard of `size` bytes may unpack to."""
    return size * EXPANSION + FREE


def open_tar(path: Path) -> IO[bytes]:
    """The archive's bytes, unpacked on the way where it is compressed by gzip; nothing else is unpacked."""
    return unpacked(io.BufferedReader(path.open("rb", buffering=0), 2**18), path.stat().st_size)


def unpacked(file: "io.BufferedReader[Any]", size: int) -> IO[bytes]:
    """The same of an open file of `size` bytes, at its start."""
    return io.BufferedReader(_Unpacked(file, largest(size)), 2**18) if file.peek(2)[:2] == b"\x1f\x8b" else file


class _Unpacked(io.RawIOBase):
    """A gzip file with an end to its patience. Damage to the stream itself is `Damage`."""

    def __init__(self, packed: IO[bytes], limit: int):
        self.limit, self.packed = limit, packed
        self.file = gzip.GzipFile(fileobj=packed)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # noqa: ANN001
        return self._guarded(lambda: self.file.readinto(buffer))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._guarded(lambda: self.file.seek(offset, whence) if offset <= self.limit else self.limit + 1)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        if hasattr(self, "file"):
            self.file.close()
            self.packed.close()
        super().close()

    def _guarded(self, act: Callable[[], int]) -> int:
        try:
            done = act()
        except (EOFError, gzip.BadGzipFile, gzip.zlib.error) as error:  # type: ignore[attr-defined]
            raise Damage(f"bad gzip stream: {error}") from None
        if max(done, self.file.tell()) > self.limit:
            raise Damage(f"unpacks to more than {self.limit:,} bytes")
        return done
