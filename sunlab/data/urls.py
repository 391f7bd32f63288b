"""From patterns to the addresses of shards: paths, globs, brace patterns, lists in files, and URLs of known schemes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sunlab.data.index import SUFFIX
from sunlab.data.paths import braces, expand
from sunlab.data.remote import Remote, check_url, is_remote
from sunlab.errors import DataError

LISTS = (".txt", ".list")


def shard_urls(patterns: Sequence[str], remote: Remote) -> list[str]:
    """The addresses that `patterns` name, in their order, each once; globs sorted by name, indexes left out.

    An entry that ends with .txt or .list is a file with one address a line (`#` starts a comment): relative ones are
    looked up beside it, and none may leave its folder.

    Raises:
        DataError: a command or unknown scheme, a pattern that nothing matches or that has no end, a list's line that
            leaves its folder.
    """
    found = dict.fromkeys(url for pattern in patterns for url in _urls(pattern, remote) if not url.endswith(SUFFIX))
    return list(found)


def _urls(pattern: str, remote: Remote) -> Iterator[str]:
    if is_remote(pattern):
        check_url(pattern)
        yield from _remote_urls(pattern, remote)
        return
    if pattern.endswith(LISTS):
        for path in expand(pattern):
            yield from _listed(path, remote)
        return
    yield from map(str, expand(pattern))


def _remote_urls(pattern: str, remote: Remote) -> Iterator[str]:
    for url in braces(pattern):
        if not any(sign in url for sign in "*?[") or url.startswith("http"):
            yield url
            continue
        matches = remote.glob(url)
        if not matches:
            raise DataError(f"{url!r}: no such object; check the pattern and its suffix")
        yield from matches


def _listed(path: Path, remote: Remote) -> Iterator[str]:
    """The lines of a list, which may come from anyone."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a list of shards: {error}") from None
    for number, line in enumerate(lines, 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        try:
            if is_remote(line):
                yield from _urls(line, remote)
            elif line.startswith(("/", "~")) or ".." in line.split("/") or line.endswith(LISTS):
                raise DataError(f"{line!r} leaves the folder of the list, or is a list itself; name it in data.source.urls")
            else:
                yield from map(str, expand(str(path.absolute().parent / line)))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
