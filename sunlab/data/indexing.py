"""`sunlab data index`: a manifest beside the shards, and beside each an index, made by reading every byte once."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha256
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from sunlab.data.archive import open_tar
from sunlab.data.distinct import require_distinct
from sunlab.data.index import DIGEST, LONGEST, Index, index_path
from sunlab.data.manifest import MANIFEST, described, parse_manifest, seal
from sunlab.data.remote import Remote
from sunlab.data.tar import BLOCK, Damage, Member, Unread, groups, members
from sunlab.distributed.parent import die_with
from sunlab.errors import DataError, StorageError
from sunlab.files import write_bytes, write_text


@dataclass(frozen=True)
class Indexed:
    """What was read of one shard: its entry in the manifest."""

    path: Path
    entry: dict[str, Any]


def index_all(paths: Sequence[Path], *, workers: int = 1) -> list[Indexed]:
    """Index shards and write their folders' manifests. Those of an interrupted pass name what was indexed till then, and a
    damaged shard does not keep the others out.

    Raises:
        DataError: damaged shards, all of them named; a key in two shards.
        StorageError: a file cannot be read or written.
    """
    done: list[Indexed] = []
    damaged: list[str] = []
    try:
        with _mapping(workers) as mapped:
            for found in mapped(_attempt, paths):
                if isinstance(found, Indexed):
                    done.append(found)
                else:
                    damaged.append(found)
    finally:
        write_manifests(done, afresh=True)
    if damaged:
        raise DataError("\n".join(damaged))
    return done


def unindexed(paths: Sequence[Path]) -> list[Path]:
    """Those that their folder's manifest does not list with their size and an index that is there."""
    manifests = {folder: _standing(folder, afresh=True)[1] for folder in {path.parent for path in paths}}
    return [path for path in paths if not _listed(path, manifests[path.parent].get(path.name))]


def index_shard(path: Path) -> Indexed:
    """Write `PATH.index`. Raises `DataError` where the shard is damaged, `StorageError` where nothing can be written."""
    unread = Unread()
    index = make_index(path, unread)
    data = index.to_bytes()
    write_bytes(index_path(path), data)
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
    entry = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest,
        "samples": len(index),
        "index": sha256(data).hexdigest(),
    }
    ends: dict[str, Any] = {"first": min(index.keys), "last": max(index.keys)} if index.keys else {}
    if unread:
        ends["unread"] = unread
    return Indexed(path, entry | ends)


def write_manifests(done: Sequence[Indexed], *, afresh: bool = False, distinct: bool = False, **more: Any) -> list[Path]:
    """A manifest in every folder, with whatever it said besides and of other shards there; `more` is added to it.

    Args:
        afresh: a manifest that is broken is replaced.
        distinct: that no key stands in two shards is known.

    Raises:
        DataError: a key in two shards: what is drawn for its samples would be the same.
        StorageError: it cannot be written.
    """
    trees: dict[Path, dict[str, Any]] = {}
    for folder in dict.fromkeys(one.path.parent for one in done):
        said, entries = _standing(folder, afresh=afresh)
        kept = {name: entry for name, entry in entries.items() if (folder / name).is_file()}
        for one in done:
            if one.path.parent == folder:
                said_before = {key: value for key, value in kept.get(one.path.name, {}).items() if key != "unread"}
                kept[one.path.name] = {**said_before, **one.entry}
        shards = [kept[name] for name in sorted(kept)]
        trees[folder] = {**said, "version": 1, **more, "shards": shards, "seal": seal(shards)}
    if not distinct:
        named = ((folder, entry) for folder, tree in trees.items() for entry in tree["shards"])
        require_distinct([described(str(folder / entry["file"]), entry) for folder, entry in named], Remote())
    for folder, tree in trees.items():
        write_text(folder / MANIFEST, json.dumps(tree, indent=1, sort_keys=True) + "\n")
    return [folder / MANIFEST for folder in trees]


def make_index(shard: Path, unread: Unread | None = None) -> Index:
    """Read a whole shard; members that are not read are noted in `unread`. Raises `DataError` where it is damaged."""
    offsets, names, digests, end = [], [], [], [0]
    try:
        with closing(open_tar(shard)) as file:
            for key, parts in groups(_noting_the_end(members(file), end), unread):
                offsets.append(next(iter(parts.values())).start)
                names.append(key)
        offsets.append(end[0])
        if any("\n" in name for name in names):
            raise Damage("a key with a line break")
        with closing(open_tar(shard)) as file:
            for start, stop in pairwise(offsets):
                if stop - start > LONGEST:
                    raise Damage(f"the sample at byte {start} has {stop - start:,} bytes, at most {LONGEST:,} are read")
                file.seek(start)
                digests.append(sha256(file.read(stop - start)).digest()[:DIGEST])
    except Damage as damage:
        raise DataError(f"{shard}: damaged shard ({damage}); copy or build it again") from None
    except OSError as error:
        raise StorageError(f"{shard}: {error.strerror or error}") from error
    table = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST)
    return Index(np.array(offsets, np.int64), table, "\n".join(names).encode("utf-8", "surrogateescape"))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _noting_the_end(found: Iterator[Member], end: list[int]) -> Iterator[Member]:
    for member in found:
        end[0] = member.offset + -(-member.size // BLOCK) * BLOCK
        yield member


def _standing(folder: Path, *, afresh: bool) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A folder's manifest, and its entries by file."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}, {}
    try:
        data = path.read_bytes()
        entries = parse_manifest(data, str(path))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except DataError:
        if afresh:
            return {}, {}
        raise
    return json.loads(data), entries


def _listed(path: Path, entry: dict[str, Any] | None) -> bool:
    return (
        entry is not None
        and entry.get("index") is not None
        and path.stat().st_size == entry["bytes"]
        and index_path(path).is_file()
    )


def _attempt(path: Path) -> Indexed | str:
    try:
        return index_shard(path)
    except DataError as error:
        return str(error)


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`, in several processes where asked. They leave with this one, and Ctrl-C is its own."""
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (os.getpid(),)) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(parent: int) -> None:
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
