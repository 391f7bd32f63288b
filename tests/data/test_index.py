"""Indexed shards: every altered byte of a sample is noticed before the sample is emitted, and counted exactly."""

import json
import os
import random
import shutil
import socket

import pytest
from tars import members, write_tar

from sunlab.cli.main import main
from sunlab.data import indexing
from sunlab.data.datamodule import DataModule
from sunlab.data.index import parse_index
from sunlab.data.negatives import Empty
from sunlab.data.sample import BadSample
from sunlab.data.shards import Shards
from sunlab.errors import DataError, StorageError


@pytest.fixture
def indexed(folder, capsys):
    assert main(["data", "index", f"{folder}/*.tar"]) == 0
    assert "51 samples in 5 shards" in capsys.readouterr().out
    return folder


def keys(source, **given):
    return [s.key for s in source.read(**{"seed": 0, "epoch": 0, "start": 0, "stop": len(source), **given})]


def test_the_order_is_the_same_with_and_without_an_index(folder, source):
    before = keys(source(), skip=3), keys(source(), start=11, stop=40, epoch=1)
    main(["data", "index", f"{folder}/*.tar"])
    assert all(shard.index for shard in source().exact.shards) and source().notice() is None
    assert (keys(source(), skip=3), keys(source(), start=11, stop=40, epoch=1)) == before


def test_indexing_again_keeps_what_the_manifest_says_besides(indexed, source):
    path = indexed / "manifest.json"
    tree = json.loads(path.read_text())
    tree |= {"licence": "x", "seal": None}
    tree["shards"][0]["split"] = "train"
    path.write_text(json.dumps(tree))
    assert main(["data", "index", f"{indexed}/*.tar*"]) == 0
    again = json.loads(path.read_text())
    assert (again["licence"], again["shards"][0]["split"], len(again["shards"])) == ("x", "train", 5) and again["seal"]
    assert len(source(urls=[f"{indexed}/*.tar*"])) == 51  # indexes are no shards


def test_a_compressed_shard_is_verified_too(tmp_path):
    import gzip

    path = write_tar(tmp_path / "a.tar", [members(n) for n in range(9)])
    data = path.read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(data))
    main(["data", "index", f"{tmp_path}/b.tar.gz"])
    assert keys(Shards(urls=[f"{tmp_path}/b.tar.gz"])) == keys(Shards(urls=[str(path)]))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    changed = gzip.compress(data.replace(b"a thing 4", b"a thong 4"))
    manifest["shards"][0]["bytes"] = len(changed)
    del manifest["seal"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "b.tar.gz").write_bytes(changed)
    with pytest.raises(BadSample, match=r"b.tar.gz: sample '00004': altered bytes"):
        keys(Shards(urls=[f"{tmp_path}/b.tar.gz"]))


def _region(path, number):
    data = path.with_name(path.name + ".index").read_bytes()
    offsets = parse_index(data, "", samples=20, digest=None).offsets
    return int(offsets[number]), int(offsets[number + 1])


def test_flips_and_cuts_are_all_noticed_and_counted(indexed, tmp_path_factory):
    """One flip in each of several samples: exactly these are quarantined, and one is enough to stop."""
    path, draw = indexed / "train-00003.tar", random.Random(0)
    whole = path.read_bytes()
    for _ in range(30):
        numbers = sorted(draw.sample(range(20), draw.randint(1, 4)))
        data = bytearray(whole)
        for number in numbers:
            data[draw.randrange(*_region(path, number))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        with pytest.raises(BadSample, match=r"train-00003.tar: sample '000\d\d': altered bytes"):
            keys(Shards(urls=[str(path)]))
        lenient = Shards(urls=[str(path)], on_error="quarantine")
        lenient.quarantine_in(out := tmp_path_factory.mktemp("out"))
        read = keys(lenient)
        assert len(read) == 20 and sum(" (for " in key for key in read) == len(numbers)
        entries = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
        assert sorted(entry["key"] for entry in entries) == [f"{22 + number:05d}" for number in numbers]
    for _ in range(10):
        cut = draw.randrange(1, _region(path, 19)[1])
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="cut short or replaced"):
            Shards(urls=[str(path)])
        lost = sum(_region(path, number)[1] > cut for number in range(20))
        lenient = Shards(urls=[str(path)], on_error="quarantine")
        bad: list[BadSample] = []
        found = list(lenient.pipeline(stream=0, passes=1, bad=bad.append))
        assert len(bad) == lost and len(found) == 20 - lost


def test_a_quarantine_is_exact_over_workers_epochs_and_resuming(indexed, source):
    path = indexed / "train-00001.tar"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)

    def steps(first, workers=0):
        shards = source(on_error="quarantine")
        shards.quarantine_in(indexed)
        module = DataModule(shards, Empty(), batch_size=8, streams=4, workers=workers)
        module._resumed = first
        loader = iter(module.loader())
        found = [next(loader).keys for _ in range(first, 14)]
        loader.close()
        return found

    whole = steps(0)
    assert steps(0, workers=2) == whole and steps(7) == whole[7:]
    entry = json.loads((indexed / "quarantine.jsonl").read_text())  # one line, for three runs over two epochs
    epoch = [key.partition(" (for ")[0] for keys in whole[:6] for key in keys]
    assert entry["key"] not in epoch and any(f"(for {entry['key']})" in key for keys in whole[:6] for key in keys)


def test_too_many_and_all_bad(indexed, source):
    path = indexed / "train-00003.tar"
    path.write_bytes(bytes(path.stat().st_size))
    shards = source(on_error="quarantine", quarantine_limit=5)
    shards.quarantine_in(indexed)
    with pytest.raises(DataError, match=r"more than 5 bad samples \(altered bytes: 6\)"):
        keys(shards)
    alone = Shards(urls=[str(path)], on_error="quarantine")
    alone.quarantine_in(indexed / "alone")
    with pytest.raises(DataError, match="all of 20 samples in a row are bad"):
        keys(alone)


def test_a_shard_that_vanishes(indexed, source):
    shards = source(on_error="quarantine")
    (indexed / "train-00003.tar").unlink()
    with pytest.raises(StorageError, match="train-00003"):
        keys(shards)


def test_manifest_and_index_are_checked_themselves(indexed, source):
    manifest, index = indexed / "manifest.json", indexed / "train-00003.tar.index"
    good, text = index.read_bytes(), manifest.read_text()
    for position in range(0, len(good), 7):
        index.write_bytes(good[:position] + bytes([good[position] ^ 16]) + good[position + 1 :])
        with pytest.raises(DataError, match="not the index that the manifest means"):
            keys(source())
    index.unlink()
    with pytest.raises(StorageError, match="data index"):
        keys(source())
    manifest.write_text(text.replace('"samples": 20', '"samples": 19'))
    with pytest.raises(DataError, match="seal"):
        source()
    for broken in (
        text[:50],
        "[]",
        '{"shards": 3}',
        '{"shards": [{"file": "train-00000.tar", "samples": -1, "bytes": 0}]}',
        "[" * 99999,
    ):
        manifest.write_text(broken)
        with pytest.raises(DataError, match=r"manifest\.json"):
            source()


def test_index_refuses_keys_of_two_shards_and_damage(tmp_path, capsys):
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", [members(n) for n in range(3)])
    assert main(["data", "index", f"{tmp_path}/*.tar"]) == 65
    assert "stands in" in capsys.readouterr().err
    assert main(["data", "index", f"{tmp_path}/a.tar"]) == 0
    shutil.copy(tmp_path / "a.tar", tmp_path / "c.tar")
    with (tmp_path / "c.tar").open("r+b") as file:
        file.truncate(4096)
    assert main(["data", "index", f"{tmp_path}/c.tar"]) == 65
    assert not (tmp_path / "c.tar.index").exists()


@pytest.mark.slow
def test_several_processes_index_as_one_does(folder):
    assert main(["data", "index", f"{folder}/*.tar"]) == 0
    alone = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").unlink()
    assert main(["data", "index", f"{folder}/*.tar", "--workers", "2"]) == 0
    assert (folder / "manifest.json").read_bytes() == alone


def test_damaged_shards_are_all_named_and_keep_no_other_out(folder, capsys):
    damaged = [folder / f"train-0000{n}.tar" for n in (1, 3)]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:3000])
    assert main(["data", "index", f"{folder}/*.tar"]) == 65
    told = capsys.readouterr().err
    assert all(str(path) in told for path in damaged) and len(told.splitlines()) == 2
    assert sorted(manifest_of(folder)) == ["train-00000.tar", "train-00002.tar", "train-00004.tar"]


def manifest_of(folder):
    return [entry["file"] for entry in json.loads((folder / "manifest.json").read_text())["shards"]]


def test_an_interrupted_pass_goes_on(folder, monkeypatch, capsys):
    make, made = indexing.make_index, []

    def interrupted(path, unread):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(path.name)
        return make(path, unread)

    monkeypatch.setattr(indexing, "make_index", interrupted)
    assert main(["data", "index", f"{folder}/*.tar"]) == 130
    assert manifest_of(folder) == made == [f"train-0000{n}.tar" for n in range(3)]
    monkeypatch.setattr(indexing, "make_index", lambda path, unread: made.append(path.name) or make(path, unread))
    (folder / "train-00001.tar.index").unlink()
    made.clear()
    capsys.readouterr()
    assert main(["data", "index", f"{folder}/*.tar", "--missing"]) == 0
    assert made == ["train-00001.tar", "train-00003.tar", "train-00004.tar"]
    assert "indexed 41 samples in 3 shards" in capsys.readouterr().out and len(manifest_of(folder)) == 5
    assert main(["data", "index", f"{folder}/*.tar", "--missing"]) == 0
    assert "indexed 0 samples in 0 shards" in capsys.readouterr().out


@pytest.mark.parametrize("broken", [b"", b"\xff", b"[]", b'{"shards": [{"file": "train-00000.tar"}]}', b"[" * 99_999])
def test_a_broken_manifest_is_made_anew(folder, broken):
    """Training refuses it, and says that this command is the remedy."""
    (folder / "manifest.json").write_bytes(broken)
    with pytest.raises(DataError, match="sunlab data index"):
        Shards(urls=[f"{folder}/*.tar"])
    assert main(["data", "index", f"{folder}/*.tar"]) == 0
    assert len(manifest_of(folder)) == 5


def test_no_link_in_the_folder_is_written_through(folder, tmp_path_factory):
    """A set from somebody else may have links where this process would write."""
    victim = tmp_path_factory.mktemp("home") / "precious"
    victim.write_text("as it was")
    for name in ("manifest.json", *(f"train-0000{n}.tar.index" for n in range(5))):
        (folder / f".{name}.{os.getpid()}.{socket.gethostname()}").symlink_to(victim)
        (folder / name).symlink_to(victim)
    assert main(["data", "index", f"{folder}/*.tar"]) == 0
    assert victim.read_text() == "as it was" and not (folder / "manifest.json").is_symlink()


@pytest.mark.parametrize("order", ["stream", "exact"])
def test_members_that_are_not_read_belong_to_their_samples(tmp_path, order):
    """They may come first in a sample, be all of one, or be webdataset's own; an altered byte in them is noticed."""
    path = tmp_path / "a.tar"
    samples = [{"__key__": f"{n:05d}", "cls": b"7", **members(n), "npy": b"an array"} for n in range(5)]
    write_tar(
        path, [{"__key__": "__meta__/a", "txt": b"own"}, *samples[:2], {"__key__": "00001x", "cls": b"7"}, *samples[2:]]
    )
    assert main(["data", "index", str(path)]) == 0
    given = {"stream": 0, "passes": 1}
    keys = [item["sample"].key[-5:] for item in Shards(urls=[str(path)], order=order).pipeline(**given)]
    assert sorted(keys) == [f"{n:05d}" for n in range(5)]
    data = path.read_bytes()
    for place in (data.index(b"7" + bytes(511)), data.rindex(b"an array")):
        path.write_bytes(data[:place] + b"8" + data[place + 1 :])
        with pytest.raises(BadSample, match="altered bytes"):
            list(Shards(urls=[str(path)], order=order).pipeline(**given))
