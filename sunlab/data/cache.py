"""Latents made once: a source is written as shards of `{key}.latent.safetensors`, and read from there on."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor
from webdataset.writer import TarWriter

from sunlab.data.base import Sample, Source
from sunlab.data.manifest import MANIFEST
from sunlab.data.shards import Shards
from sunlab.data.tar import LATENT
from sunlab.errors import DataError, StorageError

SHARD = 1024  # samples in a shard
BATCH = 32  # images encoded at once


def cache_tag(encoder: str, source: Source) -> str:
    """The folder's name for latents of `source` by the encoder with hash `encoder`: neither can change unnoticed."""
    return f"{encoder}-{source.fingerprint()}"


def cached(
    source: Source,
    encode: Callable[[Tensor], Tensor],
    folder: str | Path,
    tag: str,
    *,
    shard: int = SHARD,
    batch: int = BATCH,
) -> Shards:
    """A source of the latents of `source`, made now where they are not there yet.

    A pass that was interrupted goes on after its last whole shard. Let one process make the cache while others wait.

    Args:
        source: of images.
        encode: images (B, 3, H, W) uint8 -> scaled latents (B, C, h, w), deterministic: the autoencoder's mean. Stored in
            the dtype that it returns.
        folder: where caches are kept.
        tag: this cache's folder therein, from `cache_tag`.
        shard: samples in a file.
        batch: images encoded at once.

    Raises:
        DataError: a sample cannot be decoded or has no image.
        StorageError: the cache cannot be written.
    """
    place = Path(folder).absolute() / tag
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not (place / MANIFEST).is_file():
            starts = range(0, len(source), shard)
            shards = [_write(source, encode, place, start, min(start + shard, len(source)), batch) for start in starts]
            _put(place / MANIFEST, json.dumps({"tag": tag, "shards": shards}, indent=1).encode())
        names = [entry["file"] for entry in json.loads((place / MANIFEST).read_text())["shards"]]
    except OSError as error:
        raise StorageError(f"{place}: the cache of latents cannot be written: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place / MANIFEST}: broken ({error!r}); delete the folder, it is made again") from None
    shuffle = source.shuffle if isinstance(source, Shards) else SHARD
    return Shards(urls=[str(place / name) for name in names], shuffle=shuffle)


def _write(
    source: Source, encode: Callable[[Tensor], Tensor], place: Path, start: int, stop: int, batch: int
) -> dict[str, Any]:
    """One shard of latents, unless it is there. Returns its entry in the manifest."""
    path = place / f"latents-{start:09d}.tar"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if not path.is_file():
        samples = source.read(seed=0, epoch=0, start=start, stop=stop)
        try:
            with temporary.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
                while group := list(islice(samples, batch)):
                    for members in _encoded(group, encode):
                        tar.write(members)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    data = path.read_bytes()
    return {"file": path.name, "bytes": len(data), "sha256": sha256(data).hexdigest(), "samples": stop - start}


def _encoded(group: Sequence[Sample], encode: Callable[[Tensor], Tensor]) -> Iterator[dict[str, Any]]:
    images = [sample.image for sample in group if sample.image is not None]
    if len(images) < len(group) or len({image.shape for image in images}) > 1:
        sizes = sorted({tuple(image.shape) for image in images})
        raise DataError(f"samples near {group[0].key!r}: images of one size are needed, found {sizes}")
    latents = encode(torch.stack(images)).cpu()
    for sample, latent in zip(group, latents, strict=True):
        yield {
            "__key__": sample.key,
            LATENT: save_safetensors({"latent": latent.contiguous().clone()}),
            "txt": sample.prompt.encode(),
            "json": json.dumps(dict(sample.record)).encode(),
        }


def _put(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
