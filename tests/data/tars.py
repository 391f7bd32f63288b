"""Samples with tiny pictures, and tar files of them."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from webdataset.writer import TarWriter

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
