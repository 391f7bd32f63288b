"""No key in two shards: what is drawn for a sample is keyed by it, and the ledger tells samples apart by it.

The smallest and largest key of a shard stand in its manifest. Shards whose ranges do not meet, as those of one set that
img2dataset wrote, need no further look; of others the keys themselves are compared.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np

from sunlab.data.archive import open_tar
from sunlab.data.manifest import Shard, shard_name
from sunlab.data.passes import Found, name_of, remembered
from sunlab.data.remote import Remote
from sunlab.data.tar import groups, members
from sunlab.errors import DataError


def require_distinct(shards: Sequence[Shard], remote: Remote) -> None:
    """Args: shards, whole. That the keys of some are distinct is remembered. Shards of which nothing is known but their size
    (a manifest without digests) are taken to be distinct.

    Raises:
        DataError: a key stands in two of them.
    """
    known = [shard if shard.span else _with_span(shard, remote) for shard in shards]
    for group in _meeting([shard for shard in known if shard.span]):
        name = name_of([shard.identity() for shard in group])
        remembered(remote, f"distinct-{name}", lambda group=group: _compare(group, remote))  # type: ignore[misc]


def require_names(shards: Sequence[Shard]) -> None:
    """With keys=path. Raises `DataError` where two shards have the same folder and name."""
    first: dict[str, Shard] = {}
    for shard in shards:
        name = shard_name(shard.url)
        if first.setdefault(name, shard) is not shard:
            raise DataError(
                f"{first[name]} and {shard} have the same folder and name, {name!r}, so that keys=path does not "
                "tell their samples apart; rename a folder"
            )


def _with_span(shard: Shard, remote: Remote) -> Shard:
    if not shard.index:
        return shard
    keys = _keys(shard, remote)
    return replace(shard, span=(min(keys), max(keys)) if keys else None)


def _meeting(shards: Sequence[Shard]) -> Iterator[list[Shard]]:
    """Groups of two or more shards whose ranges of keys meet, one after the other."""
    group: list[Shard] = []
    largest = ""
    for shard in sorted(shards, key=lambda shard: shard.span or ("", "")):
        assert shard.span is not None
        if group and shard.span[0] > largest:
            if len(group) > 1:
                yield group
            group = []
        largest = max(largest, shard.span[1]) if group else shard.span[1]
        group.append(shard)
    if len(group) > 1:
        yield group


def _compare(shards: Sequence[Shard], remote: Remote) -> Found:
    """By 8 bytes a key, so that memory stays small."""
    hashes = np.concatenate([np.array([hash(key) for key in _keys(shard, remote)], np.int64) for shard in shards])
    hashes.sort()
    suspects, first = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist()), dict[str, Shard]()
    for shard in shards if suspects else ():
        for key in _keys(shard, remote):
            if hash(key) in suspects and first.setdefault(key, shard) is not shard:
                raise DataError(
                    f"the key {key!r} stands in {first[key]} and in {shard}: what is drawn for the two would be the same; "
                    "name the samples apart, or set keys=path (and index sets that belong apart one by one)"
                )
    return Found({}, {})


def _keys(shard: Shard, remote: Remote) -> list[str]:
    index = shard.read_index(remote)
    if index is not None:
        return index.keys
    with remote.held(shard.url, shard.bytes) as path, closing(open_tar(path)) as file:
        return [key for key, _ in groups(members(file))]
