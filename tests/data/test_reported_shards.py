"""Shards as users reported them to webdataset and to libraries that read its layout: read whole, or refused by name."""

import io
import json
import tarfile

import pytest
from tars import png

from sunlab.data.doctor import examine
from sunlab.data.shards import Shards
from sunlab.errors import DataError

LONG = "a folder with a long name/" * 6
CONTENT = {"png": png(7), "jpg": png(7, kind="JPEG"), "txt": b"a caption", "json": b'{"caption": "of the json"}'}


def shard(path, names, *, form=tarfile.GNU_FORMAT, cut=None, **content):
    with tarfile.open(path, "w", format=form) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            suffix = name.rpartition(".")[2].lower()
            data = {**CONTENT, **content}.get(suffix, b"")
            info.size, info.type = len(data), tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(data))
    if cut is not None:
        path.write_bytes(path.read_bytes()[:cut])
    return path


def sample(key):
    return [f"{key}.png", f"{key}.txt"]


# name -> the members, the keys that are read or what the error says, and what is special about the archive
SHARDS = {
    "upper-case extensions": (["0.PNG", "0.TXT", "1.JPG", "1.Txt"], ["0", "1"], {}),
    "nested folders": (["in/", "in/a/", *sample("in/a/0"), *sample("in/b/0")], ["in/a/0", "in/b/0"], {}),
    "made by `tar -c .`": (["./", *sample("./0"), *sample("./1")], ["./0", "./1"], {}),
    "a dotted folder": (sample("train.v1/0"), ["train.v1/0"], {}),
    "long names of GNU": (sample(f"{LONG}0"), [f"{LONG}0"], {}),
    "long names of pax": (sample(f"{LONG}0"), [f"{LONG}0"], {"form": tarfile.PAX_FORMAT}),
    "names beyond ASCII": (sample("Bild-ä-画像"), ["Bild-ä-画像"], {"form": tarfile.PAX_FORMAT}),
    "a caption in the json alone": (["0.png", "0.json"], ["0"], {}),
    "members of other kinds": (
        [*sample("0"), "0.cls", "0.pyd", "0.npy", "__info__/0.json", "__version__", *sample("1")],
        ["0", "1"],
        {},
    ),
    "an empty archive": ([], r"no sample", {}),
    "no member that is read": (["0.mp4", "1.mp4"], r"no sample", {}),
    "an empty file": ([], r"damaged shard.*end mark", {"cut": 0}),
    "closed too late": ([*sample("0"), *sample("1")], r"damaged shard.*cut short", {"cut": 2048}),
    "a name twice": ([*sample("0"), "0.png"], r"damaged shard.*two members 0\.png", {}),
    "upper and lower case of one name": (["0.png", "0.PNG", "0.txt"], r"damaged shard.*two members 0\.png", {}),
    "members apart": (["0.png", "1.png", "0.txt", "1.txt"], r"damaged shard.*two samples with the key '0'", {}),
    "sorted by extension": (["0.json", "1.json", "0.png", "1.png"], r"damaged shard.*two samples with the key '0'", {}),
    "no picture": ([*sample("0"), "1.txt"], r"'(.*/)?1'.*missing image", {}),
    "no caption": ([*sample("0"), "1.png"], r"'(.*/)?1'.*missing caption", {}),
    "a list as json": (["0.png", "0.json"], r"bad json.*an object was expected, not list", {"json": b"[1, 2]"}),
}


@pytest.mark.parametrize("order", ["stream", "exact"])
@pytest.mark.parametrize("name", SHARDS)
def test_a_reported_shard(tmp_path, name, order):
    names, expected, special = SHARDS[name]
    path = shard(tmp_path / "a.tar", names, **special)

    def read():
        source = Shards(urls=[str(path)], order=order, shuffle=0)
        items = [item["sample"] for item in source.pipeline(stream=0, passes=1)]
        if not items:
            raise DataError("no sample")
        return items

    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            read()
        return
    found = read()
    assert sorted(one.key.removeprefix(f"{tmp_path.name}/a/") for one in found) == sorted(expected)
    assert all(one.image.shape == (3, 8, 8) and one.prompt for one in found)


@pytest.mark.parametrize("order", ["stream", "exact"])
def test_keys_with_dots(tmp_path, order):
    """A key ends at the first dot, so that "2.0 clean.png" has no suffix that is read: the report says so."""
    names = [*sample("0"), "track 2.0 (clean).png", "sample1.input.jpg", "sample1.outputs.txt"]
    report = examine(Shards(urls=[str(shard(tmp_path / "a.tar", names))], order=order), 100)
    assert (report.ok, report.examined) == (1, 1)
    assert "3 members are not read" in str(report.unread) and "'sample1.input.jpg'" in str(report.unread)


def test_streams_pass_over_empty_shards(tmp_path):
    """In the order stream a shard without samples among others is no error."""
    for number in range(4):
        shard(tmp_path / f"{number}.tar", [] if number % 2 else sample(str(number)))
    source = Shards(urls=[f"{tmp_path}/*.tar"], order="stream")
    found = [item["sample"].key for item in source.pipeline(stream=0, passes=3)]
    assert len(found) == 6 and json.dumps(sorted(set(found))).count("/0/0") == 1
