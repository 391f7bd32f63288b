"""`sunlab data precompute`: the composition of a base's encoders and a data source."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from registry import load_plugins
from sunlab.app.compose import build_base, encoders_hash, given_source, own_device, settle
from sunlab.config.load import LoadedConfig
from sunlab.data.base import Source
from sunlab.data.precompute import images_of, write_latents
from sunlab.data.sample import Sample
from sunlab.distributed.ranks import launched
from sunlab.memory import keep_freed_memory
from sunlab.progress import Lines


def precompute(loaded: LoadedConfig, *, out: str | Path, shard_size: int = 1024, batch: int = 32) -> int:
    """Encode the pictures and prompts of `data.source` by the base's encoders into shards under `out`, in bfloat16.

    What is there is kept; under torchrun or srun each rank makes its share.

    Returns:
        Samples encoded by this process.

    Raises:
        DataError: `out` was begun by other encoders or of another source, or a sample is bad.
    """
    keep_freed_memory()
    ranks = launched()
    rank, count = (0, 1) if ranks is None else (ranks.rank, ranks.count)
    loaded = settle(loaded, own_device(ranks))
    config = loaded.config
    load_plugins(config.plugins)
    source: Source = given_source(config)
    base = build_base(config).freeze().to(own_device(ranks))

    @torch.no_grad()
    def encode(group: Sequence[Sample]) -> list[dict[str, Tensor]]:
        latents = base.autoencoder.encode(images_of(group).to(base.device))
        prompts = base.encode([sample.prompt for sample in group])
        found = {"latent": latents, "tokens": prompts.tokens}
        kinds = {"pooled": prompts.pooled, "mask": prompts.mask, "words": prompts.words}
        found |= {name: rows for name, rows in kinds.items() if rows is not None}
        progress.add(len(group))
        return [{name: stored(rows[i]) for name, rows in found.items()} for i in range(len(group))]

    def stored(row: Tensor) -> Tensor:
        return row if row.dtype == torch.bool else row.bfloat16()

    progress = Lines("latents", len(range(len(source))[slice(rank, None, count)]), unit="samples", enabled=rank == 0)
    progress.begin()
    return write_latents(
        source,
        encode,
        Path(out),
        encoder=encoders_hash(base),
        shard=shard_size,
        batch=batch,
        rank=rank,
        ranks=count,
        skipped=progress.skip,
    )
