"""The source "prompts": training from captions alone, streamed from text, JSON lines, CSV or Parquet files."""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sunlab.data.archive import unpacked
from sunlab.data.base import SOURCES
from sunlab.data.decode import Decoder, keywords_of
from sunlab.data.pipeline import build_filters, build_stages
from sunlab.data.remote import Arriving, Remote, file_system, is_remote
from sunlab.data.stream import Rows, Stream, Streamed
from sunlab.data.tar import Damage
from sunlab.data.urls import expand, shard_urls
from sunlab.errors import ConfigError, StorageError

KINDS = (".txt", ".jsonl", ".csv", ".parquet")


@SOURCES.register("prompts")
class Prompts(Streamed):
    """Prompts alone, for losses that need no picture: SUN from the teacher's trajectories, and stored trajectories.

    Args:
        urls: files that end with .txt (a prompt a line), .jsonl, .csv or .parquet, as paths, globs, brace patterns or URLs;
            all but the last may be compressed by gzip (.jsonl.gz).
        column: of the prompt, in all but .txt. Another one, `keywords`, may hold lists of words for negative prompts.
        shuffle: prompts in memory of each stream.
        filters: which prompts are kept, as in "shards"; they see the row's other columns.
        stages: further stages, as in "shards".

    Raises:
        ConfigError: files of another kind.
        DataError: nothing found, a row without a prompt.
        StorageError: a file that cannot be read.
    """

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
        self.urls, self.columns = [url for some in found for url in some], column
        for url in self.urls:
            if _kind(url) not in KINDS:
                raise ConfigError(f"urls of prompts: {url} is none of {', '.join(KINDS)}")
        rows = partial(Rows, partial(rows_of, column=column), column)
        decoder = Decoder(pictures=False)
        self.stream = Stream(self.urls, decoder, shuffle, build_filters(filters), build_stages(stages), rows=rows)

    def keywords(self, limit: int) -> Sequence[str]:
        """Of the column `keywords`, lists of strings, where there is one."""
        samples = islice(self.pipeline(stream=0, passes=1), limit)
        words = dict.fromkeys(word for item in samples for word in keywords_of(item["sample"].record))
        return tuple(islice(words, limit))


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
    except (OSError, UnicodeDecodeError, Damage) as error:
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
