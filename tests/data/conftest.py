"""Real tar shards of tiny images."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tars import members, write_tar

from sunlab.data.shards import Shards

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = (
    "false"  # gRPC with TLS, which no server on loopback speaks; read on import
)


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
