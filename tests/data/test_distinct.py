"""No key in two shards, however they were indexed; and no set that is shorter than its manifest says."""

import json

import pytest
from tars import members, write_tar

from sunlab.cli.main import main
from sunlab.data import distinct
from sunlab.data.shards import Shards
from sunlab.errors import DataError

TWICE = r"the key '00002' stands in .*[ab].tar and in .*[ab].tar.*keys=path"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def shard(folder, name, numbers):
    folder.mkdir(exist_ok=True)
    return write_tar(folder / f"{name}.tar", [members(n) for n in numbers])


def test_sets_indexed_apart(tmp_path):
    """Two folders, each sound by itself; the second index command sees the first one's manifest only in its own folder."""
    one, other = (shard(tmp_path / name, "a", range(start, start + 3)) for name, start in (("x", 0), ("y", 2)))
    for path in (one, other):
        assert main(["data", "index", str(path)]) == 0
    with pytest.raises(DataError, match=r"the key '00002' stands in .*x/a.tar and in .*y/a.tar.*keys=path"):
        Shards(order="exact", urls=[str(one), str(other)])
    assert len(Shards(order="exact", urls=[str(one), str(other)], keys="path")) == 6


def test_a_shard_added_to_a_folder(tmp_path, capsys):
    shard(tmp_path, "a", range(3))
    assert main(["data", "index", f"{tmp_path}/a.tar"]) == 0
    before = (tmp_path / "manifest.json").read_bytes()
    shard(tmp_path, "b", range(2, 5))
    assert main(["data", "index", f"{tmp_path}/b.tar"]) == 65
    assert "the key '00002' stands in" in capsys.readouterr().err
    assert (tmp_path / "manifest.json").read_bytes() == before
    with pytest.raises(DataError, match=TWICE):  # b counted, and its index there without a manifest
        Shards(order="exact", urls=[f"{tmp_path}/*.tar"])


@pytest.mark.parametrize("spans", [True, False])
def test_ranges_that_meet_without_a_key_in_common(tmp_path, monkeypatch, spans):
    """Even and odd numbers; compared once, as they are indexed. A manifest without ranges has its indexes read for them."""
    compared = []
    compare = distinct._compare
    monkeypatch.setattr(distinct, "_compare", lambda group, remote: compared.append(len(group)) or compare(group, remote))
    shard(tmp_path, "a", range(0, 10, 2))
    shard(tmp_path, "b", range(1, 10, 2))
    shard(tmp_path, "c", range(20, 25))
    assert main(["data", "index", f"{tmp_path}/*.tar"]) == 0
    path = tmp_path / "manifest.json"
    tree = json.loads(path.read_text())
    assert (tree["shards"][0]["first"], tree["shards"][0]["last"]) == ("00000", "00008")
    if not spans:
        for entry in tree["shards"]:
            del entry["first"], entry["last"]
        path.write_text(json.dumps(tree | {"seal": None}))
    for _ in range(2):
        assert len(Shards(order="exact", urls=[f"{tmp_path}/*.tar"])) == 15
    assert compared == [2]


def test_folders_of_one_name(tmp_path):
    """Qualified keys have the last folder and the name only, so these would be one."""
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        shard(tmp_path / place / "set", "a", range(3))
    with pytest.raises(DataError, match=r"the same folder and name, 'set/a'.*rename a folder"):
        Shards(order="exact", urls=[f"{tmp_path}/x/set/a.tar", f"{tmp_path}/y/set/a.tar"], keys="path")


def test_a_shard_that_is_gone_is_told(folder):
    assert main(["data", "index", f"{folder}/*.tar"]) == 0
    (folder / "train-00002.tar").unlink()
    for there in (None, folder / "train-00002.tar"):
        if there:
            there.mkdir()  # a folder is no shard
        with pytest.raises(DataError, match=r"manifest.json lists 1 shards that are not there \(train-00002.tar"):
            Shards(order="exact", urls=[f"{folder}/train-*.tar"])
    assert len(Shards(order="exact", urls=[f"{folder}/train-0000[01].tar"])) == 19  # whoever asks for some gets these
    assert len(Shards(order="exact", urls=[f"{folder}/train-{{00003..00004}}.tar"])) == 29
    assert main(["data", "index", f"{folder}/train-00000.tar"]) == 0  # the manifest forgets it
    assert len(Shards(order="exact", urls=[f"{folder}/train-*.tar"])) == 48


WRONG = {
    "lists a shard twice": [{"file": "a.tar", "samples": 3, "bytes": 10240}] * 2,
    "the entry of a.tar .*that fit each other": [{"file": "a.tar", "samples": 10**12, "bytes": 10240}],
    "the entry of a.tar .*texts 'first' and 'last'": [
        {"file": "a.tar", "samples": 3, "bytes": 10240, "first": 3, "last": "4"}
    ],
}


@pytest.mark.parametrize("told", WRONG)
def test_manifests_that_lie(tmp_path, told):
    path = shard(tmp_path, "a", range(3))
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": WRONG[told]}))
    with pytest.raises(DataError, match=told):
        Shards(order="exact", urls=[str(path)])
