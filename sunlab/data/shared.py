"""Shared memory, in which dataloader workers hand batches over."""

import os
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from torch import Tensor

from sunlab.errors import StorageError
from sunlab.types import Samples, Trajectory

FOLDER = Path("/dev/shm")


def share(batch: Samples) -> Samples:
    """Move the tensors of a batch into shared memory, where they are not there yet. Raises `RuntimeError` without room."""
    values = [getattr(batch, field.name) for field in fields(batch)]
    values += [each for path in values if isinstance(path, Trajectory) for each in (path.states, path.times, path.guided)]
    for value in values:
        if isinstance(value, Tensor):
            value.share_memory_()
    return batch


def no_room(error: RuntimeError) -> StorageError:
    """The error of a worker whose batch found no room. What the failed attempt left is removed."""
    clear(os.getpid())
    sizes = ""
    with suppress(OSError):
        room = os.statvfs(FOLDER)
        sizes = f" ({FOLDER} has {room.f_blocks * room.f_frsize:,} bytes)"
    return StorageError(
        f"a dataloader worker has no shared memory left for a batch{sizes}: enlarge it (docker run --shm-size=8g, or "
        f"mount -o remount,size=8g {FOLDER}), lower data.batch_size, or set data.workers=0. torch says: {error}"
    )


def clear(pid: int | None) -> None:
    """Remove the files in shared memory that torch made in the process `pid` and did not remove: of one that failed."""
    for path in FOLDER.glob(f"torch_{pid}_*"):
        with suppress(OSError):
            path.unlink()
