"""A strict reader of tar shards: what Python's own `tarfile` passes over in silence is an error here.

A shard that was cut at a block's end, or whose header has a flipped bit, reads as a shorter archive elsewhere, and its
samples are lost unseen. Here every header's checksum counts, the archive must end with its end mark and nothing behind it,
and links, devices and names that leave the folder are refused. Nothing is ever unpacked to a disk.
"""

import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple
from zlib import adler32

from webdataset.tariterators import base_plus_ext

BLOCK = 512  # bytes of a tar block
IMAGES = ("png", "webp", "jpg", "jpeg")
LATENT = "latent.safetensors"
# No other member is even read: no pickles, no arrays. The most bytes that each may have:
MEMBERS = {**dict.fromkeys((*IMAGES, LATENT), 64 * 2**20), "txt": 2**16, "json": 2**20}
MAX_EXTENSION = 2**16  # bytes of a long name or a pax header
KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)  # files and folders
META = re.compile(r"__[^/]*__($|/)")  # names of webdataset's own, which it does not read as samples
PADDING = 2**20  # zeros that may follow the end mark
LARGEST = 2**48  # bytes of a file in an archive; no disk has more


class Damage(Exception):
    """What is wrong with an archive, in words."""


class Member(NamedTuple):
    """A regular file in a tar: its sample's key and suffix (None: no member of a sample), where its header starts (with
    the extensions before it), where its content starts and how long it is, its whole name, and the content where it was
    read."""

    key: str | None
    suffix: str | None
    start: int
    offset: int
    size: int
    name: str = ""
    data: bytes = b""


def members(file: IO[bytes], *, base: int = 0, whole: bool = True) -> Iterator[Member]:
    """The regular files of an archive, in its order; `file` may be moved between two of them.

    Args:
        file: seekable, at any position.
        base: where the archive starts in `file`.
        whole: whether it must close with the end mark; False: it is a piece that ends with the file.

    Raises:
        Damage: anything that is not a sound archive of files and folders.
    """
    position, start = base, base
    extended: dict[str, Any] = {}
    while True:
        file.seek(position)
        block = file.read(BLOCK)
        if not whole and not block:
            return
        if not block.strip(b"\0") and len(block) == BLOCK:
            return _end(file)
        if len(block) < BLOCK:
            raise Damage("cut short: no end mark")
        try:
            name, kind, size = _header(block)
        except ValueError as error:
            raise Damage(f"bad header at byte {position}: {error}") from None
        if size > MAX_EXTENSION and kind in EXTENSIONS:
            raise Damage(f"bad header at byte {position}: {size:,} bytes")
        content, position = position + BLOCK, position + BLOCK + -(-size // BLOCK) * BLOCK
        if kind in EXTENSIONS:
            extended |= EXTENSIONS[kind](file.read(size))
            continue
        if extended.get("size", size) != size:
            raise Damage(f"{name!r}: two different sizes in its headers")
        name = extended.get("path", name)
        _refuse(name, kind)
        if kind != tarfile.DIRTYPE:
            key, suffix = (None, None) if META.match(name) else base_plus_ext(name)
            yield Member(key, suffix and suffix.lower(), start, content, size, name)
        start, extended = position, {}


class Unread(dict[str, tuple[int, str]]):
    """Members that are not read because of their names: by last extension, how many, and one name."""

    def note(self, name: str, count: int = 1) -> None:
        extension = name.rpartition(".")[2] if "." in name else ""
        self[extension] = (self.get(extension, (0, name))[0] + count, self.get(extension, (0, name))[1])

    def add(self, other: Mapping[str, Sequence[Any]]) -> None:
        for count, name in other.values():
            self.note(name, count)

    def __str__(self) -> str:
        """A sentence; empty where everything is read."""
        if not self:
            return ""
        kinds = sorted(self.values(), reverse=True)[:5]
        named = "; ".join(f"{count:,} like {name!r}" for count, name in kinds)
        return (
            f"{sum(count for count, _ in self.values()):,} members are not read ({named}): a sample's key ends at the first "
            f"dot of the file's name, and its suffix must be one of {', '.join(MEMBERS)}. Rename members with further dots"
        )


def groups(found: Iterator[Member], unread: Unread | None = None) -> Iterator[tuple[str, dict[str, Member]]]:
    """Samples: neighbours of one key, with those members that are read, by suffix. The first one's start is the sample's.
    The names of other members are noted in `unread`.

    Raises:
        Damage: a key that comes again, or a suffix twice in a sample.
    """
    seen: set[str] = set()
    key, parts, start = None, dict[str, Member](), 0
    for member in found:
        if unread is not None and member.suffix not in MEMBERS:
            unread.note(member.name)
        if member.key is None:
            continue
        if member.key != key:
            if key is not None and parts:
                yield key, parts
            key, parts, start = member.key, {}, member.start
            if key in seen:
                raise Damage(f"two samples with the key {key!r}")
            seen.add(key)
        if member.suffix in MEMBERS:
            if member.suffix in parts:
                raise Damage(f"two members {key}.{member.suffix}")
            parts[member.suffix] = member._replace(start=start)
    if key is not None and parts:
        yield key, parts


def content(file: IO[bytes], parts: dict[str, Member], wanted: Any = MEMBERS) -> dict[str, bytes]:
    """The bytes of a sample's members by suffix; of one that is too large, one byte more than it may have, which the
    decoder refuses.

    Raises:
        Damage: the file ends within a member.
    """
    found = {}
    for suffix, member in parts.items():
        if suffix in wanted:
            file.seek(member.offset)
            size = min(member.size, MEMBERS[suffix] + 1)
            found[suffix] = file.read(size)
            if len(found[suffix]) < size:
                raise Damage("cut short within a sample")
    return found


def _end(file: IO[bytes]) -> None:
    rest = file.read(PADDING)
    if len(rest) < BLOCK:
        raise Damage("cut short within its end mark")
    if rest.strip(b"\0") or len(rest) == PADDING:
        raise Damage("data behind its end mark (archives that were joined?)")


def _header(block: bytes) -> tuple[str, bytes, int]:
    """Name, type and size of one header (POSIX.1-1988, section 10.1.1, and GNU's sizes to base 256). Three times as fast as
    `tarfile.TarInfo.frombuf`, which a sample needs six times. Raises `ValueError`."""
    if _octal(block[148:156]) != _sum(block[:256]) + _sum(block[256:]) - sum(block[148:156]) + 256:
        raise ValueError("its checksum does not fit")
    number = block[124:136]
    size = int.from_bytes(number[1:], "big") if number[0] == 0x80 else _octal(number)
    if size > LARGEST:
        raise ValueError(f"{size:,} bytes")
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    return name.decode("utf-8", "surrogateescape"), block[156:157], size


def _sum(block: bytes) -> int:
    """The sum of at most 256 bytes, by the lower half of Adler-32 (RFC 1950): 1 + the sum, modulo 65521."""
    return (adler32(block) & 0xFFFF) - 1


def _octal(field: bytes) -> int:
    digits = field.strip(b"\0 ") or b"0"
    if not digits.isdigit():  # int() would take a sign, underscores and "0o"
        raise ValueError(f"{digits!r} is no octal number")
    return int(digits, 8)


def _refuse(name: str, kind: bytes) -> None:
    if kind not in KINDS:
        raise Damage(f"{name!r} is a link or a device, not a file")
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise Damage(f"the name {name!r} leaves the folder")


def _long_name(data: bytes) -> dict[str, Any]:
    return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}


def _pax(data: bytes) -> dict[str, Any]:
    """Records "length key=value\\n": of these, `path` and `size` are heeded."""
    found: dict[str, Any] = {}
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) + 3 <= int(length) <= len(data) or data[int(length) - 1] != 10:
            raise Damage("a broken pax header")
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            found["path"] = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise Damage("a broken pax header")
            found["size"] = int(value)
        elif key.startswith(b"GNU.sparse") or key == b"linkpath":
            raise Damage("a sparse file or a link")
        data = data[int(length) :]
    return found


def _nothing(data: bytes) -> dict[str, Any]:
    return {}


EXTENSIONS: dict[bytes, Callable[[bytes], dict[str, Any]]] = {
    tarfile.GNUTYPE_LONGNAME: _long_name,
    tarfile.XHDTYPE: _pax,
    tarfile.XGLTYPE: _nothing,
}
