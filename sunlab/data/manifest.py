"""What `manifest.json` says of the shards beside it: samples, bytes and digests; shards that it lacks are counted."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from sunlab.data.archive import Archive, largest, open_tar
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

    def identity(self) -> tuple[object, ...]:
        """Of the whole file: its content's digest where it is known, else the file as it stands on the disk."""
        if self.sha256 is not None or is_remote(self.url):
            return (self.sha256 or self.url, self.bytes, self.samples)
        return (self.url, self.bytes, self.samples, Path(self.url).stat().st_mtime_ns)

    def numbers(self, first: int, last: int) -> np.ndarray:
        """Of the samples read, those from the first-th up to the last-th."""
        return np.arange(first, last) if self.kept is None else self.kept[first:last]

    def open(self, remote: Remote) -> Archive:
        """Raises `DataError` or `StorageError` where the shard cannot be fetched or opened, or its index is another's."""
        with remote.held(self.url, self.bytes) as path:
            return Archive(path, self.read_index(remote), self.url)

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


class Manifests:
    """The manifests beside shards, each read once, when it is needed. Args: remote: where they are read from."""

    def __init__(self, remote: Remote):
        self.remote = remote
        self.folders: dict[str, dict[str, dict[str, Any]]] = {}

    def folder(self, url: str) -> dict[str, dict[str, Any]]:
        """The entries of the manifest beside a shard, by file name; none where there is no manifest."""
        folder = _folder(url)
        if folder not in self.folders:
            where = f"{folder}/{MANIFEST}"
            data = self.remote.find(where) if is_remote(folder) else _found(Path(where))
            self.folders[folder] = {} if data is None else parse_manifest(data, where)
        return self.folders[folder]

    def entry(self, url: str) -> dict[str, Any] | None:
        return self.folder(url).get(url.rpartition("/")[2])

    def index(self, url: str) -> Index | None:
        """The index of a shard; None: it has none."""
        entry = self.entry(url)
        return None if entry is None else described(url, entry).read_index(self.remote)


def shards_of(urls: Sequence[str], manifests: Manifests, *, globs: Sequence[str] = (), lenient: bool = False) -> list[Shard]:
    """The shards at `urls`, counted.

    Args:
        globs: the patterns with wildcards by which they were found.
        lenient: a shard whose size is not what its manifest says is taken, and its bad samples found in reading it.

    Raises:
        DataError: a manifest is unreadable, lists a shard that one of `globs` should have found, a shard's size is not what
            it says, or a shard to be counted is damaged.
    """
    found = []
    _require_all(manifests, urls, globs)
    for url in urls:
        entry = manifests.entry(url)
        found.append(_counted(url, manifests.remote) if entry is None else _described(url, entry, lenient))
    return found


def shard_name(url: str) -> str:
    """A shard's folder and its own name without suffixes."""
    folder, slash, name = url.rpartition("/")
    return folder.rpartition("/")[2] + slash + name.partition(".")[0]


def entries_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What the manifest of a folder says, by file; nothing where there is none."""
    return dict(Manifests(Remote()).folder(f"{folder}/"))


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
        if not _sound(entry):
            raise DataError(
                f"{where}: the entry of {name} is none: it needs whole numbers 'samples' and 'bytes' that fit each other, "
                "digests of 64 characters, texts 'first' and 'last', and counts with names under 'unread'; "
                "run `sunlab data index`"
            )
    return entries


def _sound(entry: Mapping[str, Any]) -> bool:
    """Whether every value is of its kind: the manifest may come from anyone."""
    samples, size, unread = entry.get("samples"), entry.get("bytes"), entry.get("unread", {})
    return (
        all(type(number) is int and 0 <= number < 2**62 for number in (samples, size))
        and samples * BLOCK <= largest(size)  # type: ignore[operator, arg-type]
        and all(d is None or (type(d) is str and len(d) == 64) for d in (entry.get("sha256"), entry.get("index")))
        and all(type(entry.get(key, "")) is str for key in ("first", "last"))
        and isinstance(unread, dict)
        and all(isinstance(pair, list) and [type(value) for value in pair] == [int, str] for pair in unread.values())
    )


def seal(shards: list[Any]) -> str:
    return sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()


def described(url: str, entry: Mapping[str, Any]) -> Shard:
    """A shard by its entry in a manifest."""
    span = (entry["first"], entry["last"]) if {"first", "last"} <= entry.keys() else None
    unread = Unread()
    unread.add(entry.get("unread", {}))
    return Shard(url, entry["samples"], entry["bytes"], entry.get("sha256"), entry.get("index"), span=span, unread=unread)


def _described(url: str, entry: Mapping[str, Any], lenient: bool) -> Shard:
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


def _require_all(manifests: Manifests, urls: Sequence[str], globs: Sequence[str]) -> None:
    """A shard that is gone is no shorter data set."""
    found = set(urls)
    for folder in dict.fromkeys(map(_folder, urls)) if globs else ():
        listed = [f"{folder}/{name}" for name in manifests.folder(f"{folder}/")]
        gone = [url for url in listed if url not in found and any(fnmatchcase(url, pattern) for pattern in globs)]
        if gone:
            raise DataError(
                f"{folder}/{MANIFEST} lists {len(gone)} shards that are not there ({gone[0].rpartition('/')[2]}, ...): copy "
                "them again, or run `sunlab data index` on any other shard of the folder, which forgets them"
            )


def _found(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _folder(url: str) -> str:
    return url.rsplit("/", 1)[0]
