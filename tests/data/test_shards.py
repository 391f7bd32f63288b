"""The source "shards": order, skipping, counts, and what it says of bad input."""

import json
import os
from io import BytesIO

import pytest
import torch
from PIL import Image
from tars import members, png, write_tar

from sunlab.cli.main import main
from sunlab.data.archive import Archive
from sunlab.data.decode import Decoder
from sunlab.data.sample import BadSample
from sunlab.data.shards import Shards
from sunlab.errors import ConfigError, DataError


def keys(source, start, stop, skip=0, epoch=0, seed=0):
    return [s.key for s in source.read(seed=seed, epoch=epoch, start=start, stop=stop, skip=skip)]


def test_ranges_of_an_epoch_hold_every_sample_once(source):
    shards = source()
    for epoch in range(3):
        parts = [keys(shards, start, stop, epoch=epoch) for start, stop in ((0, 11), (11, 12), (12, 40), (40, 51))]
        assert sorted(key for part in parts for key in part) == [f"{n:05d}" for n in range(51)]


def test_order_is_a_function_of_seed_and_epoch(source):
    assert keys(source(), 3, 30) == keys(source(), 3, 30)
    assert keys(source(), 3, 30) != keys(source(), 3, 30, epoch=1)
    assert keys(source(), 3, 30) != keys(source(), 3, 30, seed=1)


@pytest.mark.parametrize("shuffle", [0, 5, 1000])
def test_skipping_continues_exactly_and_decodes_nothing_that_is_skipped(source, shuffle, monkeypatch):
    shards = source(shuffle=shuffle)
    whole = keys(shards, 4, 49)
    decoded = []
    decode = Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, raw, *a: decoded.append(raw.key) or decode(self, raw, *a))
    for skip in (0, 1, 7, 30, 45):
        decoded.clear()
        assert keys(shards, 4, 49, skip=skip) == whole[skip:] == decoded


def test_shards_that_hold_nothing_wanted_stay_closed(source, monkeypatch):
    shards, opened, begin = source(shuffle=1), [], Archive.__init__
    monkeypatch.setattr(Archive, "__init__", lambda self, *a: opened.append(a) or begin(self, *a))
    assert len(keys(shards, 0, 51, skip=50)) == 1
    assert len(opened) == 1


def test_samples_are_decoded_whole(source):
    sample = next(source(shuffle=0).read(seed=0, epoch=0, start=0, stop=1))
    number = int(sample.key)
    assert sample.image.shape == (3, 8, 8) and sample.image.dtype == torch.uint8
    assert sample.image.unique().tolist() == [number]
    assert sample.prompt.startswith(f"a thing {number} ") and sample.record["number"] == number


def test_limit_prompts_and_keywords(source):
    shards = source(limit=10)
    assert len(shards) == 10 and set(keys(shards, 0, 10)) == {f"{n:05d}" for n in range(10)}
    assert shards.prompts(100) == source().prompts(10) and len(shards.prompts(100)) == 10
    assert shards.keywords(3) == ("word0", "shared", "word1")


def test_patterns(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(Shards(order="exact", urls=["train-{00000..00002}.tar"])) == 22
    assert len(Shards(order="exact", urls=["train-00000.tar", "train-0000?.tar"])) == 51  # named twice, read once
    (folder / "odd[1]{x}.tar").write_bytes((folder / "train-00000.tar").read_bytes())
    assert len(Shards(order="exact", urls=["odd[1]{x}.tar"])) == 7


@pytest.mark.parametrize(
    "url",
    [
        "pipe:touch PWNED",
        "file:/etc/passwd",
        "file:///etc/passwd",
        "s3://a::pipe://b",
        "local:///x.tar",
        "zip://x.tar",
        "pipe://x",
    ],
)
def test_urls_and_commands_are_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no commands"):
        Shards(order="exact", urls=[url])
    assert not list(tmp_path.iterdir())


def test_an_empty_pattern_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"nothing-\*\.tar.*looked for .*assets"):
        Shards(order="exact", urls=["nothing-*.tar"])


def test_a_folder_is_no_shard(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(DataError, match=rf"'{folder.name}/': a folder; name the files in it, such as {folder.name}/\*\.tar"):
        Shards(order="exact", urls=[f"{folder.name}/"])


def test_limit_below_one(source):
    with pytest.raises(ConfigError, match="at least 1"):
        source(limit=0)


def _bomb() -> bytes:
    data = BytesIO()
    Image.new("1", (5000, 5000)).save(data, "PNG")
    return data.getvalue()


BAD = {
    "undecodable image": {"png": b"\x89PNG not at all"},
    "image too large": {"png": _bomb()},
    "missing image": {"png": None},
    "missing caption": {"txt": None},
    "bad caption": {"txt": b"\xff\xfe\xff"},
    "bad json": {"json": b"{"},
    "bad latent": {"latent.safetensors": b"no tensors"},
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_samples_are_named(reason, tmp_path):
    bad = {k: v for k, v in {**members(1), **BAD[reason]}.items() if v is not None}
    path = write_tar(tmp_path / "one.tar", [members(0), bad, members(2)])
    with pytest.raises(BadSample, match=f"{path}: sample '00001': {reason}") as caught:
        keys(Shards(order="exact", urls=[str(path)]), 0, 3)
    assert (caught.value.reason, caught.value.key, caught.value.shard) == (reason, "00001", str(path))
    bad = []
    good = [item["__key__"] for item in Shards(order="exact", urls=[str(path)]).pipeline(stream=0, passes=1, bad=bad.append)]
    assert sorted(good) == ["00000", "00002"] and [error.key for error in bad] == ["00001"]


def test_other_members_are_never_read(tmp_path):
    path = write_tar(tmp_path / "one.tar", [{**members(0), "pkl": b"cos\nsystem\n(S'touch PWNED'\ntR.", "pth": b"x"}])
    assert keys(Shards(order="exact", urls=[str(path)]), 0, 1) == ["00000"]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_content_decides_not_the_suffix(kind, tmp_path):
    path = write_tar(tmp_path / "one.tar", [{**members(0), "png": png(9, kind=kind)}])
    assert keys(Shards(order="exact", urls=[str(path)]), 0, 1) == ["00000"]


def test_a_cut_shard(folder):
    path = folder / "train-00003.tar"
    shards = Shards(order="exact", urls=[str(path)])
    os.truncate(path, 12_000)
    with pytest.raises(DataError, match=f"{path}"):
        keys(shards, 0, 20)


def test_manifest_counts_and_sizes_are_held_to(folder):
    path = folder / "train-00000.tar"
    entry = {"file": path.name, "bytes": path.stat().st_size, "samples": 7}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"shards": [entry]}))
    assert len(Shards(order="exact", urls=[str(path)])) == 7
    manifest.write_text(json.dumps({"shards": [{**entry, "samples": 8}]}))
    with pytest.raises(DataError, match="fewer samples"):
        keys(Shards(order="exact", urls=[str(path)]), 0, 8)
    for broken, message in (
        ({**entry, "bytes": 1}, "cut short or replaced"),
        ({**entry, "samples": "7"}, "whole numbers"),
    ):
        manifest.write_text(json.dumps({"shards": [broken]}))
        with pytest.raises(DataError, match=message):
            Shards(order="exact", urls=[str(path)])
    manifest.write_text("[]")
    with pytest.raises(DataError, match="not a manifest"):
        Shards(order="exact", urls=[str(path)])


def test_packaged_shards_are_found():
    assert len(Shards(order="exact", urls=["emoji/noto/train-*.tar*"], limit=100)) == 100


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_text(encoding, tmp_path):
    record = json.dumps({"caption": "unused", "keywords": ["\u00e4pfel"]}, ensure_ascii=False)
    sample = {"__key__": "a", "png": png(1), "txt": "a red \u00e4pfel\n".encode(encoding), "json": record.encode(encoding)}
    path = write_tar(tmp_path / "one.tar", [sample])
    lines = tmp_path / "shards.txt"
    lines.write_bytes(f"{path.name}\n".encode(encoding))
    (found,) = Shards(order="exact", urls=[str(lines)]).read(seed=0, epoch=0, start=0, stop=1)
    assert found.prompt == "a red \u00e4pfel" and found.record["keywords"] == ["\u00e4pfel"]


def test_a_byte_order_mark_in_a_json_caption(tmp_path):
    record = json.dumps({"caption": "\ufeffa red apple"}).encode()
    path = write_tar(tmp_path / "one.tar", [{"__key__": "a", "png": png(1), "json": record}])
    for captions in (None, {"caption": 1.0}):
        (found,) = Shards(order="exact", urls=[str(path)], captions=captions).read(seed=0, epoch=0, start=0, stop=1)
        assert found.prompt == "a red apple"


def test_members_that_are_not_read_are_reported(tmp_path, capsys):
    """By `doctor data`, `data index` and at the start of a run, with an index and without."""
    sample = {"txt": b"x", "png": png(1)}
    names = ["plain", "scan.v1", "scan.v2", "IMG_20210405_12.30.11"]
    path = write_tar(tmp_path / "one.tar", [{"__key__": name, **sample} for name in names])
    expected = "6 members are not read (3 like 'scan.v1.txt'; 3 like 'scan.v1.png')"
    notice = Shards(order="exact", urls=[str(path)]).notice()
    assert expected in notice and "no index" in notice
    assert main(["data", "index", str(path)]) == 0
    assert f"warning: {expected}" in capsys.readouterr().out
    assert Shards(order="exact", urls=[str(path)]).notice().startswith(expected)
    assert main(["doctor", "data", str(path)]) == 0
    assert "6 members are not read" in " ".join(capsys.readouterr().out.split())
    nothing = write_tar(tmp_path / "two.tar", [{"__key__": "scan.v1", **sample}])
    with pytest.raises(DataError, match="2 members are not read"):
        Shards(order="exact", urls=[str(nothing)])
