"""Real tar shards of tiny images."""

import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset.writer import TarWriter

from sunlab.data.shards import Shards

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = (
    "false"  # gRPC with TLS, which no server on loopback speaks; read on import
)
COLOURS = ("red", "green", "blue")


def png(value: int, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    pixels = np.full((*size, 3), value % 256, dtype=np.uint8)
    data = BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def members(number: int) -> dict[str, object]:
    record = {"keywords": [f"word{number}", "shared"], "number": number}
    return {
        "__key__": f"{number:05d}",
        "png": png(number),
        "txt": f"a thing {number} on {COLOURS[number % 3]}".encode(),
        "json": json.dumps(record).encode(),
    }


def write_tar(path: Path, samples: list[dict[str, object]]) -> Path:
    with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write(sample)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five uneven shards of 7, 12, 3, 20 and 9 samples: 51."""
    number = 0
    for shard, count in enumerate((7, 12, 3, 20, 9)):
        write_tar(tmp_path / f"train-{shard:05d}.tar", [members(n) for n in range(number, number + count)])
        number += count
    return tmp_path


@pytest.fixture
def source(folder: Path) -> Callable[..., Shards]:
    return lambda **given: Shards(**{"urls": [f"{folder}/train-*.tar"], "shuffle": 5, "order": "exact", **given})
