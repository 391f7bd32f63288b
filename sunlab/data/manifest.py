"""How many samples each shard holds: from `manifest.json` beside the shards, or counted once."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from sunlab.data.archive import largest, open_tar
from sunlab.data.index import SUFFIX, Index, index_path, parse_index
from sunlab.data.remote import Remote, is_remote
from sunlab.data.tar import BLOCK, Damage, Unread, groups, members
from sunlab.errors import DataError, StorageError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """A tar file.

    Attributes:
        url: its path, or URL.
        samples: in the file.
        bytes: its size.
        sha256: of the file, where the manifest has it.
        index: SHA-256 of its index, where the manifest has it; "" for an index that is there without a manifest; None:
            there is none, and nothing of the shard can be verified.
        kept: the numbers of the samples that are read, rising; None: all.
        span: the smallest and the largest key, where they are known.
        unread: members that are not read because of their names.
    """

    url: str
    samples: int
    bytes: int
    sha256: str | None = None
    index: str | None = None
    kept: np.ndarray | None = None
    span: tuple[str, str] | None = None
    unread: Unread = field(default_factory=Unread)

    def __len__(self) -> int:
        return self.samples if self.kept is None else len(self.kept)

    def __str__(self) -> str:
        return self.url

    @cached_property
    def name(self) -> str:
        """For qualified keys."""
        return shard_name(self.url)

    def identity(self) -> tuple[object, ...]:
        """Of the whole file: its content's digest where it is known, else the file as it stands on the disk."""
        if self.sha256 is not None or is_remote(self.url):
            return (self.sha256 or self.url, self.bytes, self.samples)
        return (self.url, self.bytes, self.samples, Path(self.url).stat().st_mtime_ns)

    def numbers(self, first: int, last: int) -> np.ndarray:
        """Of the samples read, those from the first-th up to the last-th."""
        return np.arange(first, last) if self.kept is None else self.kept[first:last]

    def read_index(self, remote: Remote) -> Index | None:
        """Raises `DataError` where the index is not what the manifest means."""
        if self.index is None:
            return None
        url = self.url + SUFFIX
        try:
            data = remote.read(url) if is_remote(self.url) else Path(url).read_bytes()
        except OSError as error:
            raise StorageError(f"{url}: {error.strerror or error}; run `sunlab data index`") from error
        return parse_index(data, url, samples=self.samples, digest=self.index or None)


def shards_of(urls: Iterable[str], remote: Remote, *, globs: Sequence[str] = (), lenient: bool = False) -> list[Shard]:
    """The shards at `urls`, counted.

    Args:
        globs: the patterns with wildcards by which they were found.
        lenient: a shard whose size is not what its manifest says is taken, and its bad samples found in reading it.

    Raises:
        DataError: a manifest is unreadable, lists a shard that one of `globs` should have found, a shard's size is not what
            it says, or a shard to be counted is damaged.
    """
    urls, found = list(urls), []
    manifests = {folder: _manifest(folder, remote) for folder in dict.fromkeys(_folder(url) for url in urls)}
    _require_all(manifests, set(urls), globs)
    for url in urls:
        entry = manifests[_folder(url)].get(url.rsplit("/", 1)[-1])
        found.append(_counted(url, remote) if entry is None else _described(url, entry, remote, lenient))
    return found


def shard_name(url: str) -> str:
    """A shard's folder and its own name without suffixes."""
    parts = url.split("/")
    return "/".join([*parts[-2:-1], parts[-1].partition(".")[0]])


def all_listed(urls: Sequence[str], remote: Remote) -> bool:
    """Whether manifests list all shards, so that nothing must be counted. One manifest a folder is read, up to the first
    that lacks a shard."""
    manifests: dict[str, dict[str, dict[str, Any]]] = {}
    for url in urls:
        folder, name = _folder(url), url.rpartition("/")[2]
        if folder not in manifests:
            manifests[folder] = _manifest(folder, remote)
        if name not in manifests[folder]:
            return False
    return True


class Indexes:
    """The index of a shard by its URL, read when it is needed.

    Attributes:
        some: whether the folder of the first shard has a manifest with indexes; else no shard is looked up.
    """

    def __init__(self, remote: Remote, urls: Sequence[str]):
        self.remote = remote
        self.manifests: dict[str, dict[str, dict[str, Any]]] = {}
        self.some = any(entry.get("index") for entry in self._manifest(_folder(urls[0])).values())

    def __call__(self, url: str) -> Index | None:
        entry = self._manifest(_folder(url)).get(url.rpartition("/")[2]) if self.some else None
        return None if entry is None else described(url, entry).read_index(self.remote)

    def _manifest(self, folder: str) -> dict[str, dict[str, Any]]:
        if folder not in self.manifests:
            self.manifests[folder] = _manifest(folder, self.remote)
        return self.manifests[folder]


def entries_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What the manifest of a folder says, by file; nothing where there is none."""
    path = folder / MANIFEST
    return parse_manifest(path.read_bytes(), str(path)) if path.is_file() else {}


def parse_manifest(data: bytes, where: str) -> dict[str, dict[str, Any]]:
    """A manifest's entries by file name. It may come from anyone: names in it are compared, never opened.

    Raises:
        DataError: it is none, or was altered since it was sealed.
    """
    try:
        tree = json.loads(data)
        entries = {entry["file"]: entry for entry in tree["shards"]}
        if tree.get("seal") not in (None, seal(tree["shards"])):
            raise ValueError("its seal does not fit its shards")
        if len(entries) < len(tree["shards"]):
            raise ValueError("it lists a shard twice")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{where}: not a manifest ({error!r}); run `sunlab data index`, or delete it to count anew"
        ) from None
    for name, entry in entries.items():
        numbers = (entry.get("samples"), entry.get("bytes"))
        digests = (entry.get("sha256"), entry.get("index"))
        if not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
            raise DataError(f"{where}: {name} needs whole numbers 'samples' and 'bytes'; run `sunlab data index`")
        if numbers[0] * BLOCK > largest(numbers[1]):
            raise DataError(f"{where}: {name} cannot hold {numbers[0]:,} samples in {numbers[1]:,} bytes")
        if not all(d is None or (type(d) is str and len(d) == 64) for d in digests):
            raise DataError(f"{where}: {name} has a digest that is none; run `sunlab data index`")
        if not all(type(entry.get(key, "")) is str for key in ("first", "last")):
            raise DataError(f"{where}: {name} needs keys as 'first' and 'last'; run `sunlab data index`")
        if not _counts(entry.get("unread", {})):
            raise DataError(f"{where}: {name} has 'unread' members that are no counts and names; run `sunlab data index`")
    return entries


def _counts(unread: Any) -> bool:
    """Whether it is `Unread` as JSON holds it."""
    return isinstance(unread, dict) and all(
        isinstance(pair, list) and [type(value) for value in pair] == [int, str] for pair in unread.values()
    )


def seal(shards: list[Any]) -> str:
    return sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()


def described(url: str, entry: Mapping[str, Any]) -> Shard:
    """A shard by its entry in a manifest."""
    span = (entry["first"], entry["last"]) if {"first", "last"} <= entry.keys() else None
    unread = Unread()
    unread.add(entry.get("unread", {}))
    return Shard(url, entry["samples"], entry["bytes"], entry.get("sha256"), entry.get("index"), span=span, unread=unread)


def _described(url: str, entry: Mapping[str, Any], remote: Remote, lenient: bool) -> Shard:
    shard = described(url, entry)
    if not is_remote(url) and not lenient and Path(url).stat().st_size != shard.bytes:
        raise DataError(
            f"{url}: {Path(url).stat().st_size:,} bytes, but {MANIFEST} says {shard.bytes:,}: the shard was cut short or "
            "replaced; copy it again, or run `sunlab data index`"
        )
    return shard


def _counted(url: str, remote: Remote) -> Shard:
    count, first, last, unread = 0, "", "", Unread()
    try:
        with remote.held(url) as path, closing(open_tar(path)) as file:
            for key, _ in groups(members(file), unread):
                first, last = (min(first, key), max(last, key)) if count else (key, key)
                count += 1
            size, index = path.stat().st_size, "" if index_path(path).is_file() else None
    except Damage as damage:
        raise DataError(f"{url}: damaged shard ({damage}); copy or build it again") from None
    except OSError as error:
        raise StorageError(f"{url}: {error.strerror or error}") from error
    return Shard(url, count, size, index=index, span=(first, last) if count else None, unread=unread)


def _require_all(manifests: Mapping[str, Mapping[str, Any]], found: set[str], globs: Sequence[str]) -> None:
    """A shard that is gone is no shorter data set."""
    for folder, entries in manifests.items() if globs else ():
        names = [name for name in entries if any(fnmatchcase(f"{folder}/{name}", pattern) for pattern in globs)]
        gone = [name for name in names if f"{folder}/{name}" not in found]
        if gone:
            raise DataError(
                f"{folder}/{MANIFEST} lists {len(gone)} shards that are not there ({gone[0]}, ...): copy them again, or run "
                "`sunlab data index` on any other shard of the folder, which forgets them"
            )


def _manifest(folder: str, remote: Remote) -> dict[str, dict[str, Any]]:
    if not is_remote(folder):
        return entries_of(Path(folder))
    data = remote.find(f"{folder}/{MANIFEST}")
    return {} if data is None else parse_manifest(data, f"{folder}/{MANIFEST}")


def _folder(url: str) -> str:
    return url.rsplit("/", 1)[0]
