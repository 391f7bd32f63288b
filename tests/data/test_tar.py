"""The strict reader of tars: no cut, flip, link or hidden sample passes in silence."""

import contextlib
import gzip
import io
import random
import tarfile

import pytest
from tars import members, write_tar

from sunlab.data.shards import Shards
from sunlab.data.tar import Damage, groups
from sunlab.data.tar import members as members_of
from sunlab.errors import DataError


def archive(names, *, form=tarfile.GNU_FORMAT, edit=lambda info: info):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 10 + number
            info.mtime = 1.5 if form == tarfile.PAX_FORMAT else 1
            tar.addfile(edit(info), io.BytesIO(bytes(info.size)))
    return data.getvalue()


def keys(data):
    return [(key, sorted(parts)) for key, parts in groups(members_of(io.BytesIO(data)))]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_all_forms_of_tar(form):
    long = "folder/" * 20 + "0001.jpg"  # needs a long name, a pax path or a prefix
    assert keys(archive(["0000.txt", "0000.JPG", "0000.pkl", long], form=form)) == [
        ("0000", ["jpg", "txt"]),
        (long.removesuffix(".jpg"), ["jpg"]),
    ]


def test_every_cut_is_noticed():
    data = archive(["0.txt", "0.json", "1.txt", "1.json"])
    for length in range(8 * 512 + 512):
        with pytest.raises(Damage):
            keys(data[:length])
    assert len(keys(data)) == 2


def test_every_flip_in_a_header_is_noticed():
    data = archive(["0.txt", "1.txt", "2.txt"])
    for position in range(512):
        flipped = bytearray(data)
        flipped[1024 + position] ^= 1 << position % 8
        try:
            found = keys(bytes(flipped))
        except Damage:
            continue
        assert found == keys(data) and position in range(148, 156)  # how the checksum is written


def kind(type_, link=""):
    def edit(info):
        info.type, info.linkname, info.size = type_, link, 0
        return info

    return edit


REFUSED = {
    "a link": archive(["0.txt"], edit=kind(tarfile.SYMTYPE, "/etc/passwd")),
    "a hard link": archive(["0.txt"], edit=kind(tarfile.LNKTYPE, "/etc/passwd")),
    "a device": archive(["0.txt"], edit=kind(tarfile.CHRTYPE)),
    "a way out": archive(["../0.txt"]),
    "a way out within": archive(["a/../../0.txt"]),
    "the root": archive(["/etc/0.txt"]),
    "a key twice": archive(["0.txt", "1.txt", "0.json"]),
    "a member twice": archive(["0.txt", "0.txt"]),
    "two archives": archive(["0.txt"]) + archive(["1.txt"]),
    "something behind": archive(["0.txt"]) + b"x",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(Damage):
        keys(REFUSED[name])


SIZES = {
    "below nothing": b"-0000000001\0",
    "below nothing, to base 256": b"\xff" * 12,
    "beyond any disk": b"\x80\0\0\0\x3f" + b"\xff" * 7,
    "beyond any number": b"\x80" + b"\x7f" * 11,
    "with underscores": b"0000_0001_0\0",
    "with a sign": b"+0000000012\0",
    "in Python's words": b"0o000000012\0",
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_are_none(name):
    """Each with the checksum that belongs to it."""
    block = bytearray(archive(["0.txt"]))
    block[124:136], block[148:156] = SIZES[name], b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    with pytest.raises(Damage, match="bad header at byte 0"):
        keys(bytes(block))


def test_random_bytes_never_end_otherwise_than_in_damage():
    draw = random.Random(0)
    data = archive(["0.txt", "1.txt"], form=tarfile.PAX_FORMAT)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(data))] = draw.randrange(256)
        with contextlib.suppress(Damage):
            list(keys(bytes(changed)))


def test_a_gzip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("sunlab.data.archive.FREE", 2**16)
    bomb = tmp_path / "bomb.tar.gz"
    bomb.write_bytes(gzip.compress(archive(["0.txt"])[:1024] + bytes(10_000_000), 9))
    with pytest.raises(DataError, match="behind its end mark"):
        Shards(order="exact", urls=[str(bomb)])
    big = tarfile.TarInfo("0.mp4")
    big.size = 10_000_000
    bomb.write_bytes(gzip.compress(big.tobuf() + bytes(big.size) + archive(["0.txt"]), 9))
    with pytest.raises(DataError, match="unpacks to more than"):
        Shards(order="exact", urls=[str(bomb)])


def test_a_broken_gzip_stream(tmp_path):
    path = write_tar(tmp_path / "a.tar", [members(n) for n in range(20)])
    packed = bytearray(gzip.compress(path.read_bytes()))
    assert len(Shards(order="exact", urls=[str(path)])) == 20
    for cut in (len(packed) - 4, len(packed) // 2, 5):
        (tmp_path / "a.tar.gz").write_bytes(packed[:cut])
        with pytest.raises(DataError, match="damaged shard"):
            Shards(order="exact", urls=[f"{tmp_path}/a.tar.gz"])
