"""The report on shards."""

import os

from conftest import members, png, write_tar

from sunlab.data.doctor import examine
from sunlab.data.shards import Shards


def test_counts_by_reason(tmp_path):
    samples = [members(n) for n in range(10)]
    samples[2]["png"] = b"broken"
    samples[3]["png"] = b"broken too"
    del samples[5]["txt"]
    samples[7]["png"] = png(1, (4, 6))
    path = write_tar(tmp_path / "a.tar", samples)
    report = examine(Shards(urls=[str(path)]), 100)
    assert (report.examined, report.ok) == (10, 7) and not report.healthy
    assert report.reasons == {"undecodable image": 2, "missing caption": 1}
    assert report.sizes == {(8, 8): 6, (4, 6): 1} and sum(report.captions.values()) == 7
    assert {(shard, key) for shard, key, _ in report.bad} == {(str(path), f"{n:05d}") for n in (2, 3, 5)}


def test_healthy_and_limited(source):
    report = examine(source(), 20)
    assert report.examined == report.ok == 20 and report.healthy


def test_repeated_keys_and_damage(tmp_path):
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", [members(n) for n in range(4)])
    shards = Shards(urls=[f"{tmp_path}/*.tar"])
    assert sorted(examine(shards, 8).repeated) == ["00000", "00001", "00002", "00003"]
    os.truncate(tmp_path / "b.tar", 3000)
    assert "b.tar" in (examine(shards, 8).stopped or "")
