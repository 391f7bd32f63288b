"""From patterns to the addresses of shards: paths, globs, brace patterns, lists in files, and URLs of known schemes."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from glob import glob, has_magic
from itertools import islice, product
from math import prod
from os import scandir
from os.path import isdir, isfile
from pathlib import Path
from typing import NamedTuple

from braceexpand import braceexpand

from sunlab.data.index import SUFFIX
from sunlab.data.remote import Remote, check_url, is_remote
from sunlab.errors import DataError
from sunlab.files import read_text
from sunlab.packaged import folders

LISTS = (".txt", ".list")
MOST = 1_000_000  # files that one pattern may name
MANY = 5_000  # files that are looked up one by one
_RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})")


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


def expand(pattern: str) -> list[Path]:
    """The files that `pattern` names, globs sorted by name.

    A relative pattern is tried in the working directory, then among the packaged assets (`sunlab.packaged`).

    Raises:
        DataError: for a URL or a command (`pipe:...`), for broken braces, or where no file is found.
    """
    return [Path(name) for name in found_files(pattern)]


def found_files(pattern: str) -> list[str]:
    """As `expand`, their names."""
    if is_remote(pattern):
        # webdataset would run the rest of "pipe:" in a shell; a shard list from elsewhere must never do that
        raise DataError(f"{pattern!r}: only local paths are read, no URLs and no commands; copy the shards to a disk")
    if isfile(pattern):
        return [str(Path.cwd() / pattern)]  # taken as it stands, brackets and braces in its name included
    parts = braces(pattern)
    if has_magic(pattern):
        return [path for part in parts for path in _find(part, pattern, _matches)]
    names = cache(_names)  # a folder is listed once, however many of its files are named

    def named(path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return name in names(folder)

    is_there = isfile if len(parts) <= MANY else named
    if pattern.startswith("/") and all(map(is_there, parts)):
        return parts
    return [path for part in parts for path in _find(part, pattern, lambda path: [path] if is_there(path) else [])]


def braces(pattern: str) -> list[str]:
    """`a{00..02}` -> a00, a01, a02. Raises `DataError` for braces that are broken, or name more than `MOST` files."""
    try:
        sizes = [abs(int(high) - int(low)) + 1 for low, high in _RANGE.findall(pattern)]
        parts = [] if prod(sizes) > MOST else _ranges(pattern) or list(islice(braceexpand(pattern), MOST + 1))
    except ValueError as error:
        raise DataError(f"{pattern!r}: {error}; write ranges as {{00000..00009}}") from None
    if not 0 < len(parts) <= MOST:
        raise DataError(f"{pattern!r}: names more than {MOST:,} files")
    return parts


def _ranges(pattern: str) -> list[str]:
    """What `braceexpand` gives for ranges of numbers alone, ten times as fast; empty for any other pattern."""
    literals = re.split(_RANGE.pattern + r"\}", pattern)
    if any(set("{}\\$") & set(text) for text in literals[::3]):
        return []
    choices: list[list[str]] = []
    for text, low, high in zip(literals[::3], [*literals[1::3], None], [*literals[2::3], None], strict=True):
        choices.append([text])
        if low is not None and high is not None:
            padded = any(end.startswith(("0", "-0")) and end not in ("0", "-0") for end in (low, high))
            width, first, last = padded * max(len(low), len(high)), int(low), int(high)
            step = 1 if first < last else -1
            choices.append([f"{number:0{width}d}" for number in range(first, last + step, step)])
    return ["".join(part) for part in product(*choices)]


def places(part: str) -> list[str]:
    """Where a path or glob is looked for."""
    return [part] if part.startswith("/") else [str(folder / part) for folder in (Path.cwd(), *folders())]


def _matches(whole: str) -> list[str]:
    return [name for name in sorted(glob(whole)) if isfile(name)]


def _names(folder: str) -> set[str]:
    """Of the files and links in a folder; none where it cannot be listed."""
    try:
        with scandir(folder or "/") as entries:
            return {entry.name for entry in entries if entry.is_symlink() or entry.is_file()}
    except OSError:
        return set()


def _find(part: str, pattern: str, look: Callable[[str], list[str]]) -> list[str]:
    for whole in places(part):
        files = look(whole)
        if files:
            return files
    if any(isdir(place) for place in places(part)):
        raise DataError(f"{part!r}: a folder; name the files in it, such as {part.rstrip('/')}/*.tar")
    looked = " and ".join(places(part))
    where = f" (part of {pattern!r})" if part != pattern else ""
    raise DataError(f"{part!r}{where}: no such file; looked for {looked}. Check the pattern and its suffix")
