"""`sunlab data index`: a manifest beside the shards, and beside each an index, made by reading every byte once."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from hashlib import file_digest, sha256
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from sunlab.data.index import DIGEST, LONGEST, Index, index_path
from sunlab.data.manifest import MANIFEST, entries_of, seal
from sunlab.data.opened import open_tar
from sunlab.data.tar import BLOCK, Damage, Member, groups, members
from sunlab.errors import DataError, StorageError


@dataclass(frozen=True)
class Indexed:
    """What was read of one shard: its entry in the manifest, and the keys of its samples."""

    path: Path
    entry: dict[str, Any]
    keys: list[str]


def index_all(paths: Sequence[Path], *, workers: int = 1) -> list[Indexed]:
    """Index shards and write their folders' manifests."""
    if workers <= 1:
        done = [index_shard(path) for path in paths]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            done = list(pool.map(index_shard, paths))
    write_manifests(done)
    return done


def index_shard(path: Path) -> Indexed:
    """Write `PATH.index`. Raises `DataError` where the shard is damaged, `StorageError` where nothing can be written."""
    index = make_index(path)
    data = index.to_bytes()
    try:
        put(index_path(path), data)
        digest = file_sha256(path)
    except OSError as error:
        raise StorageError(f"{index_path(path)}: cannot be written: {error}") from error
    entry = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest,
        "samples": len(index),
        "index": sha256(data).hexdigest(),
    }
    return Indexed(path, entry, index.keys)


def write_manifests(done: Sequence[Indexed], **more: Any) -> list[Path]:
    """A manifest in every folder, with whatever it said besides and of other shards there; `more` is added to it.

    Raises:
        DataError: a key in two shards: what is drawn for its samples would be the same.
        StorageError: it cannot be written.
    """
    _refuse_repeated(done)
    written = []
    for folder in dict.fromkeys(one.path.parent for one in done):
        kept = {name: entry for name, entry in entries_of(folder).items() if (folder / name).is_file()}
        for one in done:
            if one.path.parent == folder:
                kept[one.path.name] = {**kept.get(one.path.name, {}), **one.entry}
        shards = [kept[name] for name in sorted(kept)]
        try:
            said = json.loads((folder / MANIFEST).read_bytes()) if (folder / MANIFEST).is_file() else {}
            tree = {**said, "version": 1, **more, "shards": shards, "seal": seal(shards)}
            put(folder / MANIFEST, json.dumps(tree, indent=1, sort_keys=True).encode() + b"\n")
        except OSError as error:
            raise StorageError(f"{folder / MANIFEST}: cannot be written: {error}") from error
        written.append(folder / MANIFEST)
    return written


def make_index(shard: Path) -> Index:
    """Read a whole shard. Raises `DataError` where it is damaged."""
    offsets, names, digests, end = [], [], [], [0]
    try:
        with closing(open_tar(shard)) as file:
            for key, parts in groups(_noting_the_end(members(file), end)):
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


def put(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _noting_the_end(found: Iterator[Member], end: list[int]) -> Iterator[Member]:
    for member in found:
        end[0] = member.offset + -(-member.size // BLOCK) * BLOCK
        yield member


def _refuse_repeated(done: Sequence[Indexed]) -> None:
    """Among those indexed together; by half a digest a key, so that memory stays small."""
    hashes = np.array([hash(key) for one in done for key in one.keys], np.int64)
    unique, counts = np.unique(hashes, return_counts=True)
    if (counts < 2).all():
        return
    suspects, first = set(unique[counts > 1].tolist()), dict[str, Path]()
    for one in done:
        for key in one.keys:
            if hash(key) in suspects and first.setdefault(key, one.path) != one.path:
                raise DataError(
                    f"the key {key!r} stands in {first[key]} and in {one.path}: what is drawn for the two would be "
                    "the same. Index sets that belong apart one by one, and train with keys=path"
                )
