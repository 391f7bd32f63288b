"""The report on shards."""

import json
import os
import re

import pytest
from tars import members, png, write_tar

from sunlab.cli.main import main
from sunlab.data.doctor import examine
from sunlab.data.shards import Shards
from sunlab.errors import DataError


def test_counts_by_reason(tmp_path):
    samples = [members(n) for n in range(10)]
    samples[2]["png"] = b"broken"
    samples[3]["png"] = b"broken too"
    del samples[5]["txt"]
    samples[7]["png"] = png(1, (4, 6))
    path = write_tar(tmp_path / "a.tar", samples)
    report = examine(Shards(order="exact", urls=[str(path)]), 100)
    assert (report.examined, report.ok) == (10, 7) and not report.healthy
    assert report.reasons == {"undecodable image": 2, "missing caption": 1}
    assert report.sizes == {(8, 8): 6, (4, 6): 1} and sum(report.captions.values()) == 7
    assert {(shard, key) for shard, key, _ in report.bad} == {(str(path), f"{n:05d}") for n in (2, 3, 5)}


def test_healthy_and_limited(source):
    report = examine(source(), 20)
    assert report.examined == report.ok == 20 and report.healthy


def test_all_shards_are_counted_where_that_is_wanted(folder, capsys):
    """Without a manifest training reads a stream, and a report is of a few shards, unless --all is given."""
    shards = [write_tar(folder / f"more-{n:05d}.tar", [members(100 + 10 * n + k) for k in range(10)]) for n in range(9)]
    assert main(["doctor", "data", f"{folder}/more-*.tar", "--samples", "5"]) == 0
    assert "8 of 9, their samples are not counted (--all" in " ".join(capsys.readouterr().out.split())
    assert (
        main(["doctor", "data", f"{folder}/more-*.tar", "--samples", "5", "--all", "--filter", json.dumps(FILTERS[0])]) == 0
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert "9 of 9, 90 samples" in shown and "90 of 90 samples kept" in shown
    os.truncate(shards[4], 3000)
    assert main(["doctor", "data", f"{folder}/more-*.tar", "--all"]) == 65
    assert f"{shards[4]}: damaged shard" in capsys.readouterr().err


def test_repeated_keys_and_damage(tmp_path):
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", [members(n) for n in range(4)])
    with pytest.raises(DataError, match=r"'00000' stands in .*a.tar and in .*b.tar.*keys=path"):
        Shards(order="exact", urls=[f"{tmp_path}/*.tar"])
    shards = Shards(order="exact", urls=[f"{tmp_path}/*.tar"], keys="path")
    assert not examine(shards, 8).repeated
    assert {sample.key for sample in shards.read(seed=0, epoch=0, start=0, stop=8)} >= {f"{tmp_path.name}/a/00000"}
    os.truncate(tmp_path / "b.tar", 3000)
    assert examine(shards, 8).reasons == {"damaged shard": 4}


def test_what_would_stop_a_training_is_an_error(folder, capsys):
    assert main(["data", "index", f"{folder}/*.tar"]) == 0
    index = folder / "train-00003.tar.index"
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    assert main(["doctor", "data", f"{folder}/*.tar"]) == 65
    assert f"error: reading stopped at what would stop a training: {index}: not the index" in capsys.readouterr().err


FILTERS = [{"name": "json_field", "field": "number", "min": 6, "missing": "drop"}, {"name": "aesthetic", "missing": "keep"}]


def test_what_filters_drop(folder, capsys):
    """Of numbers 0 ... 50, none with an aesthetic score."""
    assert (
        main(["doctor", "data", f"{folder}/*.tar", "--filter", json.dumps(FILTERS[0]), "--filter", json.dumps(FILTERS[1])])
        == 0
    )
    shown = capsys.readouterr().out
    assert "45 of 51 samples kept" in shown and "no index" in shown
    assert re.search(r"json_field number +6 +6 +0", shown) and re.search(r"aesthetic +0 +0 +51", shown)
    assert main(["doctor", "data", f"{folder}/*.tar", "--filter", "{name: aesthetic, missing: drop}"]) == 65
    assert "aesthetic       51     51       51" in capsys.readouterr().err
    assert main(["doctor", "data"]) == 78
