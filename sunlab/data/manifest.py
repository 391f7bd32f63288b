"""How many samples each shard holds: from `manifest.json` beside the shards, or counted once."""

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from sunlab.data.index import SUFFIX, Index, index_path, parse_index
from sunlab.data.opened import open_tar
from sunlab.data.remote import Remote, is_remote
from sunlab.data.tar import Damage, groups, members
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
    """

    url: str
    samples: int
    bytes: int
    sha256: str | None = None
    index: str | None = None
    kept: np.ndarray | None = None

    def __len__(self) -> int:
        return self.samples if self.kept is None else len(self.kept)

    def __str__(self) -> str:
        return self.url

    @cached_property
    def name(self) -> str:
        """For qualified keys: its folder and its own name without suffixes."""
        parts = self.url.split("/")
        return "/".join([*parts[-2:-1], parts[-1].partition(".")[0]])

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


def shards_of(urls: Iterable[str], remote: Remote, *, lenient: bool = False, distinct: bool = True) -> list[Shard]:
    """The shards at `urls`, counted.

    Args:
        lenient: a shard whose size is not what its manifest says is taken, and its bad samples found in reading it.
        distinct: whether a key in two of the shards that are counted is an error.

    Raises:
        DataError: a manifest is unreadable, a shard's size is not what it says, a shard to be counted is damaged, or a key
            stands in two of the shards that were counted.
    """
    urls, found = list(urls), []
    seen: dict[bytes, str] = {}
    manifests = {folder: _manifest(folder, remote) for folder in {_folder(url) for url in urls}}
    for url in urls:
        entry = manifests[_folder(url)].get(url.rsplit("/", 1)[-1])
        found.append(
            _counted(url, remote, seen if distinct else {}) if entry is None else _described(url, entry, remote, lenient)
        )
    return found


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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{where}: not a manifest ({error!r}); run `sunlab data index`, or delete it to count anew"
        ) from None
    for name, entry in entries.items():
        numbers = (entry.get("samples"), entry.get("bytes"))
        digests = (entry.get("sha256"), entry.get("index"))
        if not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
            raise DataError(f"{where}: {name} needs whole numbers 'samples' and 'bytes'; run `sunlab data index`")
        if not all(d is None or (type(d) is str and len(d) == 64) for d in digests):
            raise DataError(f"{where}: {name} has a digest that is none; run `sunlab data index`")
    return entries


def seal(shards: list[Any]) -> str:
    return sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()


def _described(url: str, entry: Mapping[str, Any], remote: Remote, lenient: bool) -> Shard:
    shard = Shard(url, entry["samples"], entry["bytes"], entry.get("sha256"), entry.get("index"))
    if not is_remote(url) and not lenient and Path(url).stat().st_size != shard.bytes:
        raise DataError(
            f"{url}: {Path(url).stat().st_size:,} bytes, but {MANIFEST} says {shard.bytes:,}: the shard was cut short or "
            "replaced; copy it again, or run `sunlab data index`"
        )
    return shard


def _counted(url: str, remote: Remote, seen: dict[bytes, str]) -> Shard:
    path, count = remote.local(url), 0
    try:
        with closing(open_tar(path)) as file:
            for key, _ in groups(members(file)):
                count += 1
                first = seen.setdefault(sha256(key.encode("utf-8", "replace")).digest()[:8], url)
                if first != url:
                    raise DataError(
                        f"the key {key!r} stands in {url} and in {first}: what is drawn for "
                        "the two would be the same; name the samples apart, or set keys=path"
                    )
    except Damage as damage:
        raise DataError(f"{url}: damaged shard ({damage}); copy or build it again") from None
    except OSError as error:
        raise StorageError(f"{url}: {error.strerror or error}") from error
    return Shard(url, count, path.stat().st_size, index="" if index_path(path).is_file() else None)


def _manifest(folder: str, remote: Remote) -> dict[str, dict[str, Any]]:
    if not is_remote(folder):
        return entries_of(Path(folder))
    data = remote.find(f"{folder}/{MANIFEST}")
    return {} if data is None else parse_manifest(data, f"{folder}/{MANIFEST}")


def _folder(url: str) -> str:
    return url.rsplit("/", 1)[0]
