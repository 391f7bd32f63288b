"""The source "latents": what `sunlab data precompute` made."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sunlab.data.base import SOURCES, Source
from sunlab.data.manifest import MANIFEST
from sunlab.data.pipeline import Pipeline
from sunlab.data.precompute import missing
from sunlab.data.sample import Sample
from sunlab.data.shards import Shards
from sunlab.errors import DataError


@SOURCES.register("latents")
class Latents(Source):
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
        self.path, self.inner = path, Shards(urls=[f"{path}/latents-*.tar"], shuffle=shuffle, limit=limit)

    holds_images = False

    def require_origin(self, *, teacher: Callable[[], str], encoders: Callable[[], str]) -> None:
        self.require_encoder(encoders())

    def require_encoder(self, encoder: str) -> None:
        """Raises `DataError` where the latents were not made by the encoders with this hash."""
        if encoder != self.encoder:
            raise DataError(
                f"{self.path}: made by encoders {self.encoder}, this run's are {encoder}; precompute again with this base, "
                "or set model.base to the other"
            )

    def __len__(self) -> int:
        return len(self.inner)

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        return self.inner.read(seed=seed, epoch=epoch, start=start, stop=stop, skip=skip)

    def pipeline(self, **given: Any) -> Pipeline:
        return self.inner.pipeline(**given)

    def notice(self) -> str | None:
        return self.inner.notice()

    def identity(self) -> str:
        return self.inner.identity()

    def fingerprint(self) -> str:
        return self.inner.fingerprint()

    def prompts(self, limit: int) -> Sequence[str]:
        return self.inner.prompts(limit)

    def keywords(self, limit: int) -> Sequence[str]:
        return self.inner.keywords(limit)
