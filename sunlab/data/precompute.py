"""Latents and prompt embeddings made ahead: shards of `{key}.latent.safetensors`, with the caption and json beside."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor
from webdataset.writer import TarWriter

from sunlab.data.base import Source
from sunlab.data.index import index_path
from sunlab.data.indexing import Indexed, index_shard, write_manifests
from sunlab.data.manifest import MANIFEST, entries_of
from sunlab.data.sample import Sample
from sunlab.data.tar import LATENT
from sunlab.errors import ConfigError, DataError, StorageError
from sunlab.files import locked, remove_leftovers, replacing, write_json

PLAN = "precompute.json"
SHARD = 1024  # samples in a shard
BATCH = 32  # samples encoded at once
TOGETHER = 32  # shards that the manifest learns of at once: it is written anew each time
Encode = Callable[[Sequence[Sample]], Sequence[dict[str, Tensor]]]  # samples of one image size -> the tensors of each


def write_latents(
    source: Source,
    encode: Encode,
    folder: Path,
    *,
    encoder: str,
    shard: int = SHARD,
    batch: int = BATCH,
    rank: int = 0,
    ranks: int = 1,
    skipped: Callable[[int], None] = lambda samples: None,
) -> int:
    """Write this rank's share of the shards, those left out that are there already. Bad samples that the source bears are
    noted in `folder`/quarantine.jsonl.

    Args:
        source: of images of one size.
        encode: gives `latent` (C, h, w), and what is wanted of `tokens` (L, d), `pooled` (p,), `mask` and `words` (L,) bool,
            in the dtype to be stored.
        folder: of the shards.
        encoder: hash of the encoders' weights; a folder begun by another is refused.
        shard, batch: samples in a file, and encoded at once.
        rank, ranks: shards rank, rank + ranks, ... are this process's.
        skipped: called with the samples of a shard that is there already.

    Returns:
        How many samples were encoded.

    Raises:
        ConfigError: a source in aspect-ratio buckets.
        DataError: the folder is another encoder's or source's, or a sample is bad.
        StorageError: the folder cannot be written.
    """
    if len(source.parts()) > 1:
        raise ConfigError("latents made ahead have one size: precompute a source without buckets")
    starts, indexed = range(0, len(source), shard), list[Indexed]()
    _plan(folder, {"encoder": encoder, "source": source.fingerprint(), "samples": len(source), "shard": shard})
    done, there = 0, entries_of(folder).keys()
    source.quarantine_in(folder)
    try:
        for start in starts[rank::ranks]:
            path = folder / f"latents-{start:09d}.tar"
            stop = min(start + shard, len(source))
            if path.name in there:
                skipped(stop - start)
                continue
            if path.is_file():
                skipped(stop - start)
            else:
                done += _write(path, source.sound(start=start, stop=stop), encode, batch)
            indexed.append(index_shard(path))
            remove_leftovers(path)
            remove_leftovers(index_path(path))
            if len(indexed) == TOGETHER:
                _list(folder, indexed, encoder)
    except OSError as error:
        raise StorageError(f"{folder}: latents cannot be written: {error}") from error
    finally:
        _list(folder, indexed, encoder)
    return done


def _list(folder: Path, indexed: list[Indexed], encoder: str) -> None:
    if indexed:
        with locked(folder / ".lock"):
            write_manifests(indexed, distinct=True, encoder=encoder)  # keys are distinct in the source
            remove_leftovers(folder / MANIFEST)
        indexed.clear()


def missing(folder: Path) -> int:
    """Shards of the plan that are still to be made. Raises `DataError` where there is no plan."""
    try:
        plan = json.loads((folder / PLAN).read_bytes())
        return len(range(0, plan["samples"], plan["shard"])) - len(entries_of(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / PLAN}: no latents are planned there ({error}); run `sunlab data precompute`") from None


def _plan(folder: Path, plan: dict[str, object]) -> None:
    try:
        with locked(folder / ".lock"):
            if not (folder / PLAN).is_file():
                write_json(folder / PLAN, plan)
                remove_leftovers(folder / PLAN)
        found = json.loads((folder / PLAN).read_bytes())
    except OSError as error:
        raise StorageError(f"{folder}: latents cannot be written: {error}") from error
    except ValueError as error:
        raise DataError(f"{folder / PLAN}: broken ({error}); delete the folder, it is made again") from None
    for name, value in plan.items():
        if not isinstance(found, dict) or found.get(name) != value:
            theirs = found.get(name) if isinstance(found, dict) else None
            raise DataError(
                f"{folder} was begun with {name} = {theirs}, now it is {value}; choose another folder, or delete it"
            )


def _write(path: Path, samples: Iterator[Sample], encode: Encode, batch: int) -> int:
    done = 0
    with (
        replacing(path) as temporary,
        temporary.open("xb") as file,
        TarWriter(file, encoder=False, mtime=0) as tar,
    ):
        while group := list(islice(samples, batch)):
            _same_size(group)
            for sample, tensors in zip(group, encode(group), strict=True):
                tar.write(_members(sample, tensors))
                done += 1
    return done


def _members(sample: Sample, tensors: dict[str, Tensor]) -> dict[str, object]:
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in stored.values()):
        raise DataError(f"sample {sample.key!r}: its latent or embedding is not finite in {stored['latent'].dtype}")
    record = {**sample.record, **({"crop": list(sample.crop)} if sample.crop else {})}
    return {
        "__key__": sample.key,
        LATENT: save_safetensors(stored),
        "txt": sample.prompt.encode(),
        "json": json.dumps(record).encode(),
    }


def _same_size(group: Sequence[Sample]) -> None:
    sizes = {None if sample.image is None else tuple(sample.image.shape) for sample in group}
    if None in sizes:
        raise DataError(f"sample {group[0].key!r} has no picture; name shards of pictures as data.source")
    if len(sizes) > 1:
        raise DataError(
            f"samples near {group[0].key!r}: images of one size are needed, found {sizes}; set size of the source"
        )


def images_of(group: Sequence[Sample]) -> Tensor:
    """(B, 3, H, W) uint8."""
    return torch.stack([sample.image for sample in group if sample.image is not None])
