"""From patterns to the addresses of shards: paths, globs, brace patterns, lists in files, and URLs of known schemes."""

from collections.abc import Iterator, Sequence
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

from sunlab.data.index import SUFFIX
from sunlab.data.paths import braces, expand, found_files, places
from sunlab.data.remote import Remote, check_url, is_remote
from sunlab.errors import DataError
from sunlab.files import read_text

LISTS = (".txt", ".list")


class Addresses(NamedTuple):
    """Of shards; and the patterns with wildcards that found them, by which it can be seen that one is gone."""

    urls: list[str]
    globs: list[str]


def shard_urls(patterns: Sequence[str], remote: Remote) -> Addresses:
    """The addresses that `patterns` name, in their order, each once; globs sorted by name, indexes left out.

    An entry that ends with .txt or .list is a file with one address a line (`#` starts a comment): relative ones are
    looked up beside it, and none may leave its folder.

    Raises:
        DataError: a command or unknown scheme, a pattern that nothing matches or that has no end, a list's line that
            leaves its folder.
    """
    globs: list[str] = []
    found = dict.fromkeys(url for pattern in patterns for url in _urls(pattern, remote, globs))
    return Addresses([url for url in found if not url.endswith(SUFFIX)], globs)


def _urls(pattern: str, remote: Remote, globs: list[str]) -> Iterator[str]:
    if is_remote(pattern):
        check_url(pattern)
        yield from _remote_urls(pattern, remote, globs)
    elif pattern.endswith(LISTS):
        for path in expand(pattern):
            yield from _listed(path, remote, globs)
    else:
        yield from _local(pattern, globs)


def _local(pattern: str, globs: list[str]) -> Iterator[str]:
    yield from found_files(pattern)
    if has_magic(pattern) and not Path(pattern).is_file():
        globs += [whole for part in braces(pattern) if has_magic(part) for whole in places(part)]


def _remote_urls(pattern: str, remote: Remote, globs: list[str]) -> Iterator[str]:
    if not has_magic(pattern) or pattern.startswith("http"):
        yield from braces(pattern)
        return
    for url in braces(pattern):
        if not has_magic(url):
            yield url
            continue
        matches = remote.glob(url)
        if not matches:
            raise DataError(f"{url!r}: no such object; check the pattern and its suffix")
        globs.append(url)
        yield from matches


def _listed(path: Path, remote: Remote, globs: list[str]) -> Iterator[str]:
    """The lines of a list, which may come from anyone."""
    try:
        lines = read_text(path).splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a list of shards: {error}") from None
    for number, line in enumerate(lines, 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        try:
            if is_remote(line):
                yield from _urls(line, remote, globs)
                continue
            if line.startswith(("/", "~")) or ".." in line.split("/") or line.endswith(LISTS):
                raise DataError(f"{line!r} leaves the folder of the list, or is a list itself; name it in data.source.urls")
            folder = path.absolute().parent
            for found in _local(str(folder / line), globs):
                if not Path(found).resolve().is_relative_to(folder.resolve()):
                    raise DataError(f"{found!r} is a link that leaves the folder of the list; name it in data.source.urls")
                yield found
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
