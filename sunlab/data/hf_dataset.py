"""The source "hf_dataset": a dataset of the library `datasets`, streamed."""

import io
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from sunlab.data.base import SOURCES
from sunlab.data.decode import MAX_PIXELS, Decoder
from sunlab.data.fields import Captions
from sunlab.data.framing import Framing
from sunlab.data.pipeline import build_filters, build_stages
from sunlab.data.quarantine import Quarantine
from sunlab.data.stream import Rows, Stream, Streamed
from sunlab.errors import ConfigError, DataError, StorageError


@SOURCES.register("hf_dataset")
class HFDataset(Streamed):
    """A dataset of the Hugging Face Hub, or of local files, by the library `datasets` in streaming mode.

    Its shards are dealt to the virtual streams like tar shards. Code of a dataset is not run.

    Args:
        path: of the Hub (owner/name), or a builder such as json, parquet, imagefolder.
        subset: name of its configuration.
        split: of it.
        data_files: for a builder: paths, globs or URLs.
        caption: column of the prompt.
        image: column of the picture; null: prompts alone.
        shuffle: samples in memory of each stream.
        size, crop, flip, decoding: as in "shards".
        filters, stages: as in "shards"; filters see the other columns.
        on_error: raise, or quarantine: leave bad samples out and write them down.

    Raises:
        ConfigError: the library is missing, or parameters out of range.
        DataError: no such dataset, split or column.
    """

    def __init__(
        self,
        *,
        path: str,
        subset: str | None = None,
        split: str = "train",
        data_files: list[str] | None = None,
        caption: str = "caption",
        image: str | None = "image",
        shuffle: int = 1000,
        size: int | None = None,
        crop: Literal["center", "random"] = "center",
        flip: float = 0.0,
        decoding: Literal["fast", "full"] = "fast",
        filters: list[str | dict[str, Any]] | None = None,
        stages: list[dict[str, Any]] | None = None,
        on_error: Literal["raise", "quarantine"] = "raise",
    ):
        self.holds_images = image is not None
        self.data = _opened(path, subset, split, data_files, image, caption)
        self.columns = caption, image
        place = f"{path}/{subset}/{split}" if subset else f"{path}/{split}"
        framing = None if size is None else Framing(size, size, crop, flip, decoding == "full")
        self.stream = Stream(
            [f"{place}/{number:05d}" for number in range(self.data.num_shards)],
            Decoder(framing, Captions({"caption": 1.0}), MAX_PIXELS, pictures=image is not None),
            shuffle,
            build_filters(filters),
            build_stages(stages),
            quarantine=Quarantine() if on_error == "quarantine" else None,
            rows=partial(Rows, self._rows, caption, picture=None if image is None else _bytes, image=image),
        )

    def _rows(self, url: str) -> Iterator[Any]:
        try:
            yield from self.data.shard(self.data.num_shards, int(url.rpartition("/")[2]))
        except OSError as error:
            raise StorageError(f"{url}: {error}") from error


def _bytes(value: Any) -> bytes:
    """Of an undecoded picture: `{"bytes": ..., "path": ...}`."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, dict):
        return b""
    if value.get("bytes") is not None:
        return value["bytes"]
    with io.FileIO(value["path"]) as file:
        return file.readall()


def _opened(path: str, subset: str | None, split: str, files: list[str] | None, image: str | None, caption: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError("hf_dataset needs a package that is not installed: pip install 'sunlab[datasets]'") from error
    try:
        data = datasets.load_dataset(path, subset, split=split, data_files=files, streaming=True)
    except Exception as error:  # the library raises its own, and fsspec's
        raise DataError(f"hf_dataset: {path}, {subset}, split {split!r}: {error}") from error
    columns = data.column_names or list(next(iter(data), {}))
    for column in (caption, image):
        if column is not None and column not in columns:
            raise DataError(f"hf_dataset: {path} has no column {column!r}; it has {', '.join(columns)}")
    features = data.features or {}
    if image is not None and isinstance(features.get(image), datasets.Image):
        data = data.cast_column(image, datasets.Image(decode=False))
    return data
