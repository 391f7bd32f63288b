"""From shards to undecoded samples: open, tar, group, verify. webdataset's own stages for this run a shell for "pipe:", and
lose cut or altered samples without an error; these are as strict as `sunlab.data.tar`."""

import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from hashlib import sha256
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import IO

from webdataset.filters import pipelinefilter

from sunlab.data.archive import open_tar, unpacked
from sunlab.data.cursor import Cursor, Tally
from sunlab.data.index import DIGEST, LONGEST, Index
from sunlab.data.remote import Arriving, Remote, is_remote
from sunlab.data.sample import Bad, BadSample, Item, bad_sample
from sunlab.data.tar import BLOCK, MEMBERS, Damage, Member, groups, members
from sunlab.errors import StorageError

EARLY = 2**23  # bytes after which the next shard is opened, where a shard's size is not known


class Open:
    """Shards -> shards with an open `file`. When half of a remote one was read, the next is opened beside it.

    Args:
        bad: what becomes of a shard that cannot be read, where it is quarantined; else `StorageError` is raised.
        remote: the cache that remote shards are fetched to as a whole; None: they are read as they arrive.
        lenient: whether shards that cannot be read are quarantined.
    """

    def __init__(self, bad: Bad, remote: Remote | None = None, *, lenient: bool = False):
        self.bad, self.remote, self.lenient = bad, remote, lenient

    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        items, ahead = iter(items), list[tuple[Item, Future[IO[bytes]]]]()

        def open_next() -> None:
            following = next(items, None)
            if following is not None:
                ahead.append((following, _in_a_thread(lambda: self.file(following["url"]))))

        item: Item | None
        opening: Future[IO[bytes]] | None
        while True:
            item, opening = ahead.pop() if ahead else (next(items, None), None)
            if item is None:
                return
            try:
                file = self.file(item["url"]) if opening is None else opening.result()
            except StorageError as error:
                self.failed(item["url"], error)
                continue
            with file:
                yield {**item, "file": file, "__halfway__": open_next if is_remote(item["url"]) else _nothing}

    def file(self, url: str) -> IO[bytes]:
        if not is_remote(url):
            try:
                return open_tar(Path(url))
            except OSError as error:
                raise StorageError(f"{url}: {error.strerror or error}") from error
        if self.remote is not None:
            with self.remote.held(url) as path:
                return open_tar(path)
        source = Arriving(url)
        return unpacked(io.BufferedReader(source, 2**18), source.size or 2**40)

    @staticmethod
    def size(file: IO[bytes]) -> int:
        """Bytes of a remote file; 0 where they are not known."""
        return int(getattr(getattr(file, "raw", None), "size", 0) or 0)

    def failed(self, url: str, error: StorageError) -> None:
        if not self.lenient:
            raise error
        self.bad(BadSample(str(error), shard=url, key="*", reason="unreadable shard"))


def _nothing() -> None:
    pass


def _in_a_thread(act: Callable[[], IO[bytes]]) -> "Future[IO[bytes]]":
    """Nobody waits for the thread: the collector may end this stage in fsspec's own thread, for which it would wait."""
    found: Future[IO[bytes]] = Future()

    def run() -> None:
        try:
            found.set_result(act())
        except BaseException as error:  # raised where the result is looked at
            found.set_exception(error)

    Thread(target=run, daemon=True, name="next-shard").start()
    return found


class Tar:
    """Open shards -> their members, each with its bytes; and an item `__end__` after the last. A shard that is damaged ends
    with the damage: nothing after it is emitted.

    Args:
        tally: where the names of members that are not read are noted.
        regions: hand on the archive's own bytes too (`__before__`: with a sample's first member, all from the start of the
            sample before to that of this one).
    """

    def __init__(self, tally: Tally, *, regions: bool = False):
        self.tally, self.regions = tally, regions

    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            about = {"__url__": item["url"], **{key: item[key] for key in item if key.startswith("__")}}
            forward, end, problem = Forward(item["file"], keep=self.regions), 0, None
            key, start = None, 0  # of the sample, whose first member may be one that is not read
            middle, halfway = (Open.size(item["file"]) or 2 * EARLY) // 2, about.pop("__halfway__", _nothing)
            try:
                for member in members(forward):  # type: ignore[arg-type]
                    end = member.offset + -(-member.size // BLOCK) * BLOCK
                    if member.key not in (None, key):
                        key, start = member.key, member.start
                    if member.suffix not in MEMBERS or member.key is None:
                        self.tally.unread.note(member.name)
                        continue
                    before = forward.cut(start)
                    size = min(member.size, MEMBERS[member.suffix] + 1)
                    data = forward.read(size)
                    if len(data) < size:
                        raise Damage("cut short within a sample")
                    if forward.position > middle:
                        halfway()
                        halfway = _nothing
                    yield {**about, "__member__": member._replace(data=data), "__before__": before}
            except Damage as damage:
                problem = str(damage)
            except OSError as error:
                problem = error.strerror or str(error)
            except StorageError as error:
                problem = str(error)
            yield {**about, "__end__": True, "__problem__": problem, "__before__": forward.cut(end) if not problem else []}


class Forward:
    """A file that is only read forward. Args: keep: what was read, in pieces, until it is `cut`."""

    def __init__(self, file: IO[bytes], *, keep: bool = False):
        self.file, self.position, self.keep = file, 0, keep
        self.pieces, self.first = list[bytes](), 0

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.position += len(data)
        if self.keep:
            self.pieces.append(data)
            if self.position - self.first > LONGEST + 2**21:
                raise Damage(f"a sample has more than {LONGEST:,} bytes")
        return data

    def seek(self, position: int) -> None:
        while self.position < position and self.read(min(position - self.position, 2**20)):
            pass

    def cut(self, end: int) -> list[bytes]:
        """The pieces up to the position `end`, which are forgotten."""
        if end <= self.first:
            return []
        found, kept = [], []
        for piece in self.pieces:
            within = max(0, end - self.first)
            found.append(piece[:within])  # the piece itself, not a copy, where all of it is within
            if within < len(piece):
                kept.append(piece[within:])
            self.first += len(piece[:within])
        self.pieces = kept
        return found


class Group:
    """Members -> samples: neighbours of one key. Half a sample, a key or a member that comes twice are damage.

    Args:
        bad: what becomes of what cannot be read any more.
        start: the first sample that is wanted.
        found: called for each sample.
    """

    def __init__(self, bad: Bad, start: Cursor, found: Callable[[], None]):
        self.bad, self.start, self.found = bad, start, found

    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        items = iter(items)
        for first in items:  # of a shard
            shard: Item = {key: first[key] for key in ("__url__", "__epoch__", "__position__", "__part__") if key in first}
            pulled: list[Item] = []  # the members of the current sample, and the one after them
            members = _to_the_end(chain([first], items), pulled)
            try:
                for number, (key, parts) in enumerate(groups(members)):
                    regions = [piece for item in pulled[1:] for piece in item["__before__"]]
                    del pulled[:-1]
                    if self._wanted(shard, number):
                        self.found()
                        data = {suffix: member.data for suffix, member in parts.items()}
                        yield {"__key__": key, **shard, "__number__": number, "__regions__": regions, **data}
            except Damage as damage:
                member = next((item["__member__"] for item in reversed(pulled) if "__member__" in item), None)
                self.bad(bad_sample(shard["__url__"], member.key if member else "#0", "damaged shard", str(damage)))
                with suppress(Damage):  # the rest of the shard
                    deque(members, 0)

    def _wanted(self, shard: Item, number: int) -> bool:
        part, parts = shard.get("__part__", (0, 1))
        return number % parts == part and (shard["__epoch__"], shard["__position__"], number) >= self.start[:3]


def _to_the_end(items: Iterator[Item], pulled: list[Item]) -> Iterator[Member]:
    """The members of one shard. Raises `Damage` where it ends with one."""
    for item in items:
        pulled.append(item)
        if "__end__" in item:
            if item["__problem__"]:
                raise Damage(item["__problem__"])
            return
        yield item["__member__"]


@pipelinefilter
def verify(items: Iterator[Item], index: Callable[[str], Index | None] | None, bad: Bad) -> Iterator[Item]:
    """Compares each sample of a shard with an index with its digest, and raises or leaves out those that differ.

    Args:
        items: samples.
        index: the index of the shard at a URL, or None; None: no shard has one.
        bad: what becomes of a sample whose bytes were altered.
    """
    url, known = "", None
    for item in items:
        if item["__url__"] != url:
            url = item["__url__"]
            known = None if index is None else index(url)
        regions = item.pop("__regions__")
        if known is None or _matches(known, item["__number__"], item["__key__"], regions):
            yield item
        else:
            bad(bad_sample(url, item["__key__"], "altered bytes", "its bytes are not those that were indexed"))


def _matches(index: Index, number: int, key: str, regions: list[bytes]) -> bool:
    if number >= len(index) or index.keys[number] != key:
        return False
    digest = sha256()
    for region in regions:
        digest.update(region)
    return digest.digest()[:DIGEST] == index.digests[number].tobytes()
