"""The source "prompts": training from captions alone, streamed from text, JSON lines, CSV or Parquet files."""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from random import Random
from typing import IO, Any

from sunlab.data.arriving import Arriving, file_system
from sunlab.data.base import PIPELINE, SOURCES, Sample, Source
from sunlab.data.cursor import Cursor
from sunlab.data.decode import Decoder
from sunlab.data.opened import bad_sample, unpacked
from sunlab.data.paths import expand
from sunlab.data.pipeline import Pipeline, build_stages
from sunlab.data.remote import Remote, is_remote
from sunlab.data.shards import build_filters
from sunlab.data.stages.base import Bad, Item
from sunlab.data.streamed import Streamed
from sunlab.data.urls import shard_urls
from sunlab.draws import keyed_seed
from sunlab.errors import ConfigError, StorageError

KINDS = (".txt", ".jsonl", ".csv", ".parquet")


@SOURCES.register("prompts")
class Prompts(Source):
    """Prompts alone, for losses that need no picture: SUN from the teacher's trajectories, and stored trajectories.

    Args:
        urls: files that end with .txt (a prompt a line), .jsonl, .csv or .parquet, as paths, globs, brace patterns or URLs;
            all but the last may be compressed by gzip (.jsonl.gz).
        column: of the prompt, in all but .txt.
        shuffle: prompts in memory of each stream.
        filters: which prompts are kept, as in "shards"; they see the row's other columns.
        stages: further stages, as in "shards".

    Raises:
        ConfigError: files of another kind.
        DataError: nothing found, a row without a prompt.
        StorageError: a file that cannot be read.
    """

    order = "stream"
    holds_images = False

    def __init__(
        self,
        *,
        urls: list[str],
        column: str = "caption",
        shuffle: int = 10_000,
        filters: list[str | dict[str, Any]] | None = None,
        stages: list[dict[str, Any]] | None = None,
    ):
        # a .txt file is a list of prompts here, and no list of files
        remote = Remote()
        found = [_files(url, remote) for url in ([urls] if isinstance(urls, str) else urls)]
        self.urls, self.column = [url for some in found for url in some], column
        for url in self.urls:
            if _kind(url) not in KINDS:
                raise ConfigError(f"urls of prompts: {url} is none of {', '.join(KINDS)}")
        self.streamed = Streamed(
            self.urls,
            remote,
            None,
            build_filters(filters),
            build_stages(stages),
            Decoder(pictures=False),
            shuffle,
            (),
            None,
            rows=lambda bad, start, found: Rows(column, bad, start, found),
        )

    def pipeline(self, **given: Any) -> Pipeline:
        return self.streamed.pipeline(**{**PIPELINE, **given})

    def __len__(self) -> int:
        return len(self._all)

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        order = list(range(len(self._all)))
        Random(keyed_seed(seed, epoch, "prompts")).shuffle(order)
        yield from (self._all[index] for index in order[start + skip : stop])

    def identity(self) -> str:
        return blake2b(repr((self.streamed.identity(), self.column)).encode(), digest_size=8).hexdigest()

    def prompts(self, limit: int) -> Sequence[str]:
        items = self.pipeline(stream=0, passes=1)
        return [item["sample"].prompt for item in islice(items, limit)]

    @cached_property
    def _all(self) -> list[Sample]:
        """Read where somebody counts them: training does not."""
        return [item["sample"] for item in self.pipeline(stream=0, passes=1)]


class Rows:
    """Files -> a sample a row: `txt`, and the row as `json`.

    Args:
        column: of the prompt.
        bad: what becomes of a row without one.
        start: the first row that is wanted.
        found: called for each.
    """

    def __init__(self, column: str, bad: Bad, start: Cursor, found: Callable[[], None]):
        self.column, self.bad, self.start, self.found = column, bad, start, found

    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            part, parts = item.get("__part__", (0, 1))
            about = {key: value for key, value in item.items() if key.startswith("__")}
            for number, row in enumerate(rows_of(item["url"], self.column)):
                here = (item["__epoch__"], item["__position__"], number)
                if number % parts != part or here < self.start[:3]:
                    continue
                self.found()
                text = row.get(self.column) if isinstance(row, dict) else None
                if not isinstance(text, str):
                    key = f"{number:09d}"
                    self.bad(bad_sample(item["url"], key, "missing caption", f"no text in the column {self.column!r}"))
                    continue
                record = {key: value for key, value in row.items() if isinstance(value, str | int | float | list)}
                yield {
                    "__key__": f"{number:09d}",
                    "__url__": item["url"],
                    **about,
                    "__number__": number,
                    "txt": text.encode(),
                    "json": json.dumps(record, default=str).encode(),
                }


def rows_of(url: str, column: str) -> Iterator[Any]:
    """The rows of a file. Raises `StorageError` where it cannot be read, `ConfigError` where pyarrow is missing."""
    kind = _kind(url)
    if kind == ".parquet":
        yield from _parquet(url)
        return
    try:
        raw = io.BufferedReader(Arriving(url) if is_remote(url) else io.FileIO(url), 2**18)
        with unpacked(raw, 2**40) as file:
            lines = io.TextIOWrapper(file, encoding=_encoding(file), newline="" if kind == ".csv" else None)
            if kind == ".txt":
                yield from ({column: line.strip()} for line in lines if line.strip())
            elif kind == ".csv":
                yield from csv.DictReader(lines)
            else:
                yield from (_object(line) for line in lines if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{url}: {getattr(error, 'strerror', None) or error}") from error


def _parquet(url: str) -> Iterator[Any]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ConfigError(f"{url}: needs a package that is not installed: pip install 'sunlab[parquet]'") from error
    with file_system(url).open(url, "rb") if is_remote(url) else io.FileIO(url) as source, ParquetFile(source) as file:
        for group in file.iter_batches(1024):
            yield from group.to_pylist()


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None  # a row without a prompt


def _encoding(file: IO[bytes]) -> str:
    """By the byte order mark. Args: file: at its start."""
    head = file.peek(4)[:4]  # type: ignore[attr-defined]
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def _kind(url: str) -> str:
    return Path(url.removesuffix(".gz").partition("?")[0]).suffix


def _files(url: str, remote: Remote) -> list[str]:
    if _kind(url) == ".txt" and not is_remote(url):
        return [str(path) for path in expand(url)]
    return shard_urls([url], remote).urls
