"""Index shards: a manifest of their samples and digests, by which training verifies every sample."""

from collections.abc import Sequence

from sunlab.data.index import SUFFIX
from sunlab.data.indexing import Indexed, index_all, unindexed
from sunlab.data.urls import expand


def index(shards: Sequence[str], *, workers: int = 1, missing: bool = False) -> list[Indexed]:
    """Write `manifest.json` into each folder of the shards.

    Args:
        shards: tar files on this machine, or patterns of them.
        workers: processes.
        missing: only shards that no manifest lists yet.

    Returns:
        The entry of each shard that was indexed.

    Raises:
        DataError: no such shards, or a damaged one.
    """
    found = (path for pattern in shards for path in expand(pattern))
    paths = list(dict.fromkeys(path for path in found if path.suffix != SUFFIX))
    return index_all(unindexed(paths) if missing else paths, workers=workers)
