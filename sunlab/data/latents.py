"""The source "latents": what `sunlab data precompute` made; and latents that a run makes at its start (`data.cache`)."""

import json
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from sunlab.data.base import SOURCES, Source
from sunlab.data.manifest import MANIFEST
from sunlab.data.precompute import BATCH, SHARD, images_of, missing, write_latents
from sunlab.data.shards import Shards
from sunlab.errors import DataError, StorageError
from sunlab.files import locked


@SOURCES.register("latents")
class Latents(Shards):
    """Latents and prompt embeddings made ahead by `sunlab data precompute`; no picture is decoded, no image encoder runs.

    Args:
        path: the folder.
        shuffle: samples in the shuffle buffer of each range.
        limit: only the first so many samples.

    Raises:
        DataError: no finished folder of latents.
    """

    def __init__(self, *, path: str, shuffle: int = 1000, limit: int | None = None):
        manifest = Path(path) / MANIFEST
        try:
            self.encoder = str(json.loads(manifest.read_bytes())["encoder"])
        except OSError as error:
            raise DataError(f"{manifest}: {error.strerror}; make it with `sunlab data precompute`") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{manifest}: not of latents ({error!r}); make it with `sunlab data precompute`") from None
        unmade = missing(Path(path))
        if unmade:
            raise DataError(f"{path}: {unmade} shards are not made yet; run `sunlab data precompute` again, it goes on")
        self.path = path
        super().__init__(urls=[f"{path}/latents-*.tar"], shuffle=shuffle, limit=limit)

    holds_images, reads_shards = False, False

    def require_origin(self, *, teacher: Callable[[], str], encoders: Callable[[], str]) -> None:
        if encoders() != self.encoder:
            raise DataError(
                f"{self.path}: made by encoders {self.encoder}, this run's are {encoders()}; precompute again with this "
                "base, or set model.base to the other"
            )


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
    shuffle = source.stream.shuffle if isinstance(source, Shards) else SHARD
    return Shards(urls=[str(place / "latents-*.tar")], shuffle=shuffle)
