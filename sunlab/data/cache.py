"""Latents made once, at the start of a run (`data.cache`): a source is written as shards, and read from there on."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from sunlab.data.base import Source
from sunlab.data.precompute import BATCH, SHARD, images_of, write_latents
from sunlab.data.shards import Shards
from sunlab.errors import StorageError
from sunlab.files import locked


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

    A pass that was interrupted goes on after its last whole shard. Of several processes one makes them, the others wait.

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
        with locked(place / ".making"):
            write_latents(
                source,
                lambda group: [{"latent": latent} for latent in encode(images_of(group))],
                place,
                encoder=tag,
                shard=shard,
                batch=batch,
            )
    except OSError as error:
        raise StorageError(f"{place}: the cache of latents cannot be written: {error}") from error
    shuffle = SHARD if source.window is None else source.window
    return Shards(urls=[str(place / "latents-*.tar")], shuffle=shuffle)
