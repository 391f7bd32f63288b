"""Samples and shards, made from nothing but a number."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16  # pixels
Members = Mapping[str, bytes]
"""Suffix -> bytes; `__key__` is the key, as bytes."""


@cache
def picture(number: int, kind: str = "PNG", side: int = SIDE) -> bytes:
    """A picture of its own for each of 256 numbers."""
    pixels = np.full((side, side, 3), number % 256, np.uint8)
    pixels[4:12, 4:12] = (number * 37 % 256, number * 101 % 256, 255 - number % 256)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def picture_sample(number: int) -> Members:
    """A sample as img2dataset writes it."""
    return {
        "__key__": f"{number:09d}".encode(),
        "png": picture(number % 256),
        "txt": f"picture number {number}".encode(),
        "json": json.dumps({"key": f"{number:09d}", "number": number, "keywords": ["picture"]}).encode(),
    }


def write_shard(path: Path, samples: Iterable[Members]) -> Path:
    """A tar of samples, the same to the byte for the same samples."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            key = sample["__key__"].decode()
            for suffix, data in sample.items():
                if suffix != "__key__":
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return path
