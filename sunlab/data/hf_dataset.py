"""The source "hf_dataset": a dataset of the library `datasets`, streamed."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from typing import Any, Literal

from sunlab.data.base import PIPELINE, SOURCES, Sample, Source
from sunlab.data.captions import Captions
from sunlab.data.cursor import Cursor
from sunlab.data.decode import MAX_PIXELS, Decoder
from sunlab.data.framing import Framing
from sunlab.data.opened import bad_sample
from sunlab.data.pipeline import Pipeline, build_stages
from sunlab.data.quarantine import Quarantine
from sunlab.data.remote import Remote
from sunlab.data.shards import build_filters
from sunlab.data.stages.base import Bad, Item
from sunlab.data.streamed import Streamed
from sunlab.errors import ConfigError, DataError, StorageError


@SOURCES.register("hf_dataset")
class HFDataset(Source):
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
        size, crop, flip: as in "shards".
        filters, stages: as in "shards"; filters see the other columns.
        on_error: raise, or quarantine: leave bad samples out and write them down.

    Raises:
        ConfigError: the library is missing, or parameters out of range.
        DataError: no such dataset, split or column.
    """

    order = "stream"

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
        filters: list[str | dict[str, Any]] | None = None,
        stages: list[dict[str, Any]] | None = None,
        on_error: Literal["raise", "quarantine"] = "raise",
    ):
        self.holds_images = image is not None
        self.place = f"{path}/{subset}/{split}" if subset else f"{path}/{split}"
        self.data = _opened(path, subset, split, data_files, image, caption)
        framing = None if size is None else Framing(size, size, crop, flip)
        self.columns = caption, image
        self.quarantine = Quarantine() if on_error == "quarantine" else None
        self.streamed = Streamed(
            [f"{self.place}/{number:05d}" for number in range(self.data.num_shards)],
            Remote(),
            None,
            build_filters(filters),
            build_stages(stages),
            Decoder(framing, Captions({"caption": 1.0}), MAX_PIXELS, pictures=image is not None),
            shuffle,
            (),
            self.quarantine,
            rows=lambda bad, start, found: Examples(self.data, *self.columns, bad, start, found),
        )

    def pipeline(self, **given: Any) -> Pipeline:
        return self.streamed.pipeline(**{**PIPELINE, **given})

    def quarantine_in(self, folder: Any) -> None:
        if self.quarantine is not None:
            self.quarantine.path = folder / self.quarantine.path.name

    def __len__(self) -> int:
        return len(self._all)

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        yield from self._all[start + skip : stop]

    def identity(self) -> str:
        return blake2b(repr((self.streamed.identity(), self.columns)).encode(), digest_size=8).hexdigest()

    def prompts(self, limit: int) -> Sequence[str]:
        return [item["sample"].prompt for item in islice(self.pipeline(stream=0, passes=1), limit)]

    @cached_property
    def _all(self) -> list[Sample]:
        """Read where somebody counts them: training does not."""
        return [item["sample"] for item in self.pipeline(stream=0, passes=1)]


class Examples:
    """Shards of a dataset -> a sample an example.

    Args:
        data: the streamed dataset, pictures undecoded.
        caption, image: columns.
        bad: what becomes of an example without a caption.
        start: the first one that is wanted.
        found: called for each.
    """

    def __init__(self, data: Any, caption: str, image: str | None, bad: Bad, start: Cursor, found: Callable[[], None]):
        self.data, self.caption, self.image, self.bad, self.start, self.found = data, caption, image, bad, start, found

    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            part, parts = item.get("__part__", (0, 1))
            about = {key: value for key, value in item.items() if key.startswith("__")}
            shard = int(item["url"].rpartition("/")[2])
            for number, row in enumerate(self._rows(shard, item["url"])):
                if number % parts != part or (item["__epoch__"], item["__position__"], number) < self.start[:3]:
                    continue
                self.found()
                members = self._members(row)
                if "txt" not in members:
                    key = f"{number:09d}"
                    self.bad(bad_sample(item["url"], key, "missing caption", f"no text in the column {self.caption!r}"))
                    continue
                yield {"__key__": f"{number:09d}", "__url__": item["url"], **about, "__number__": number, **members}

    def _rows(self, shard: int, url: str) -> Iterator[Any]:
        try:
            yield from self.data.shard(self.data.num_shards, shard)
        except OSError as error:
            raise StorageError(f"{url}: {error}") from error

    def _members(self, row: dict[str, Any]) -> dict[str, bytes]:
        found = {}
        if isinstance(row.get(self.caption), str):
            found["txt"] = row[self.caption].encode()
        if self.image is not None:
            found["png"] = _bytes(row.get(self.image))  # what kind of picture it is, its bytes say
        record = {k: v for k, v in row.items() if isinstance(v, str | int | float | list) and k != self.image}
        return {**found, "json": json.dumps(record, default=str).encode()}


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
