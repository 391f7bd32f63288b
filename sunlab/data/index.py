"""The index beside a shard, `00000.tar.index`: where each sample starts, its key, and a digest of all its bytes.

A safetensors file of three tensors: `offsets` (S + 1,) int64, in the unpacked archive, the last the start of the end mark;
`digests` (S, 16) uint8, the first half of the SHA-256 of the bytes between two offsets; `keys`, UTF-8, one a line.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from sunlab.errors import DataError

DIGEST = 16  # bytes
SUFFIX = ".index"
LONGEST = 2**28  # bytes of a sample: nothing larger is read at once


@dataclass(frozen=True)
class Index:
    """Of one shard with S samples.

    Attributes:
        offsets: (S + 1,) int64.
        digests: (S, 16) uint8.
        names: the keys, one a line.
    """

    offsets: np.ndarray
    digests: np.ndarray
    names: bytes

    def __len__(self) -> int:
        return len(self.digests)

    @cached_property
    def keys(self) -> list[str]:
        return self.names.decode("utf-8", "surrogateescape").split("\n") if self.names else []

    def to_bytes(self) -> bytes:
        names = np.frombuffer(self.names, np.uint8)
        return save_safetensors({"offsets": self.offsets, "digests": self.digests, "keys": names}, {"version": "1"})


def index_path(shard: Path) -> Path:
    return shard.with_name(shard.name + SUFFIX)


def parse_index(data: bytes, where: str, *, samples: int, digest: str | None) -> Index:
    """An index from a file's bytes, which may come from anyone.

    Raises:
        DataError: it is not the index that the manifest means, or none of a shard with `samples` samples.
    """
    if digest is not None and sha256(data).hexdigest() != digest:
        raise DataError(f"{where}: not the index that the manifest means; copy it again, or run `sunlab data index`")
    try:
        found = load_safetensors(data)
        index = Index(found["offsets"], found["digests"], found["keys"].tobytes())
        sizes = np.diff(index.offsets)
        if (
            index.offsets.dtype != np.int64
            or index.digests.dtype != np.uint8
            or index.offsets.shape != (samples + 1,)
            or index.digests.shape != (samples, DIGEST)
            or len(index.keys) != samples
            or (samples and not (index.offsets[0] >= 0 and sizes.min() > 0 and sizes.max() <= LONGEST))
        ):
            raise ValueError(f"its tables do not describe {samples} samples")
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{where}: not the index of its shard ({error}); run `sunlab data index` again") from None
    return index
