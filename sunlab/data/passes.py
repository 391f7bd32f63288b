"""Passes over all samples of counted shards before training: filters and sizes of pictures, kept on the disk.

The order of an epoch is then an order of the samples that are kept, so that resuming and equal steps are as exact with
filters as without.
"""

import json
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sunlab.data.decode import facts_of, image_size
from sunlab.data.filters.base import PROBES, Dropped, Named
from sunlab.data.framing import nearest
from sunlab.data.manifest import Shard
from sunlab.data.remote import Remote
from sunlab.data.sample import BadSample, Raw
from sunlab.data.tar import IMAGES
from sunlab.errors import DataError, StorageError
from sunlab.files import locked, replacing

PROBE_SHARDS = 8  # that are filtered first
TEXTS = ("txt", "json")


class Found(NamedTuple):
    """What a pass found: arrays by name, and plain values."""

    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]


def scan(shard: Shard, remote: Remote, suffixes: Collection[str]) -> Iterator[Raw | BadSample]:
    """The samples of a shard that are read, with their members of these suffixes, verified like those that are trained on.
    A bad sample is yielded as the error that it will raise.

    Raises:
        DataError, StorageError: the shard cannot be fetched or opened, or its index is another shard's.
    """
    archive = shard.open(remote)
    for number in shard.numbers(0, len(shard)).tolist():
        try:
            yield archive.load(number, suffixes)
        except BadSample as error:
            yield error


def select(shards: Sequence[Shard], filters: Named, remote: Remote, *, lenient: bool = False) -> tuple[list[Shard], Dropped]:
    """The shards with the numbers of their kept samples.

    Some samples are filtered first, so that filters that drop everything are reported at once.

    Args:
        shards: whole.
        filters: with a name each.
        remote: where remote shards are fetched to; the result is kept beside it.
        lenient: bad samples are kept, and found to be bad when they are read; else the first one is raised.

    Raises:
        DataError: nothing is kept, with the table of what each filter dropped; a bad sample.
    """
    some = random.Random(0).sample(list(shards), min(PROBE_SHARDS, len(shards)))
    for most in PROBES:
        probe = Dropped()
        for shard in some:
            for _ in look(shard, filters, remote, probe, most, lenient=lenient):
                pass
        if probe.kept:
            break
    else:
        raise DataError(f"the filters drop every sample that was looked at:\n{probe.table(filters)}")

    def look_at_all() -> Found:
        dropped = Dropped()
        looks = (look(shard, filters, remote, dropped, lenient=lenient) for shard in shards)
        kept = [np.flatnonzero(np.fromiter(looked, bool)) for looked in looks]
        return Found(
            {"numbers": np.concatenate(kept), "ends": np.cumsum([len(numbers) for numbers in kept])}, dropped.to_dict()
        )

    settings = [(name, type(one).__qualname__, sorted(vars(one).items(), key=str)) for name, one in filters]
    found = remembered(remote, name_of(([shard.identity() for shard in shards], settings)), look_at_all)
    numbers = np.split(found.arrays["numbers"], found.arrays["ends"][:-1])
    return [replace(shard, kept=kept) for shard, kept in zip(shards, numbers, strict=True)], Dropped.from_dict(found.notes)


def look(
    shard: Shard, filters: Named, remote: Remote, dropped: Dropped, most: int | None = None, *, lenient: bool = False
) -> Iterator[bool]:
    """Whether each of a whole shard's samples, or of the first `most`, is kept."""
    picture = any(one.picture for _, one in filters)
    for raw in islice(scan(shard, remote, (*TEXTS, *IMAGES) if picture else TEXTS), most):
        if not isinstance(raw, BadSample):
            yield dropped.look(filters, facts_of(raw, picture=picture), shard.url)
        elif lenient:
            dropped.bad += 1
            yield True
        else:
            raise raw


def into_buckets(shards: Sequence[Shard], choices: Sequence[tuple[int, int]], remote: Remote) -> list[list[Shard]]:
    """For each shape, the shards with the numbers of its samples. A sample whose picture cannot be opened goes with the
    first shape, and is found to be bad when it is read. For the sizes of all pictures every shard is read once."""

    def sizes_of_all() -> Found:
        found, ends = [], []
        for shard in shards:
            for raw in scan(replace(shard, kept=None), remote, IMAGES):
                found.append(None if isinstance(raw, BadSample) else image_size(raw.members))
            ends.append(len(found))
        sizes = np.array([size or (0, 0) for size in found], np.int32).reshape(-1, 2)
        return Found({"sizes": sizes, "ends": np.array(ends)}, {})

    known = remembered(remote, f"sizes-{name_of([shard.identity() for shard in shards])}", sizes_of_all)
    sizes = np.split(known.arrays["sizes"], known.arrays["ends"][:-1])
    ratios: dict[tuple[int, int], int] = {}
    buckets: list[list[Shard]] = [[] for _ in choices]
    for shard, table in zip(shards, sizes, strict=True):
        numbers = shard.numbers(0, len(shard))
        pairs = [tuple(pair) for pair in table[numbers].tolist()]
        own = np.array([ratios.setdefault(p, nearest(*p, choices)) if min(p) else 0 for p in pairs], np.int64)  # type: ignore[call-arg]
        for bucket in range(len(choices)):
            kept = numbers[own == bucket]
            if len(kept):
                buckets[bucket].append(replace(shard, kept=kept))
    return buckets


def name_of(told: object) -> str:
    return sha256(repr(told).encode()).hexdigest()[:32]


def remembered(remote: Remote, name: str, make: Callable[[], Found]) -> Found:
    """What `make` found when it was called under this name, on this machine, for the first time; other processes wait.

    Args:
        remote: beside whose cache such files are kept; if they cannot be written, `make` is called every time.
        name: made of everything that the result depends on.
    """
    folder = remote.folder.parent / "passes"
    path = folder / f"{name}.safetensors"
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / f".{name}.lock"))
        except OSError:
            return make()
        with suppress(OSError, SafetensorError, KeyError, TypeError, ValueError), safe_open(path, framework="numpy") as file:
            return Found({key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["notes"]))  # noqa: SIM118
        found = make()
        with suppress(StorageError), replacing(path) as temporary:  # else it is made again next time
            save_file(found.arrays, temporary, {"notes": json.dumps(found.notes)})
        return found
