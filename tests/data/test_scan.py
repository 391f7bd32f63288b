"""What is decided before training is decided by verified bytes, and a quarantine bears what it must there too."""

import json

import pytest
from tars import members, png, write_tar

from sunlab.cli.main import main
from sunlab.data.sample import BadSample
from sunlab.data.shards import Shards
from sunlab.errors import DataError

RARE = [{"name": "aesthetic", "min": 6, "missing": "drop"}]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def scored(number, score=6.5):
    size = (8, 16) if number % 2 else (16, 8)
    return {**members(number), "png": png(number, size), "json": json.dumps({"aesthetic": score}).encode()}


def altered(path, before, after):
    data = path.read_bytes()
    path.write_bytes(data.replace(before, after, 1))


def read(shards, folder):
    shards.quarantine_in(folder)
    return list(shards.read(seed=0, epoch=0, start=0, stop=len(shards)))


def test_a_caption_that_was_altered_is_nobodys_negative_prompt(tmp_path):
    path = write_tar(tmp_path / "a.tar", [members(n) for n in range(9)])
    assert main(["data", "index", str(path)]) == 0
    altered(path, b"a thing 4", b"a thong 4")
    with pytest.raises(BadSample, match="'00004': altered bytes"):
        Shards(order="exact", urls=[str(path)]).prompts(100)
    lenient = Shards(order="exact", urls=[str(path)], on_error="quarantine")
    assert len(lenient.prompts(100)) == 8 and not any("thong" in prompt for prompt in lenient.prompts(100))


def test_a_sample_is_not_dropped_by_an_altered_value(tmp_path):
    """Of two values that were altered the one would have dropped its sample, the other kept it."""
    path = write_tar(tmp_path / "a.tar", [scored(n, 6.5 if n < 6 else 5.5) for n in range(9)])
    assert main(["data", "index", str(path)]) == 0
    altered(path, b'"aesthetic": 6.5', b'"aesthetic": 2.5')
    altered(path, b'"aesthetic": 5.5', b'"aesthetic": 9.5')
    with pytest.raises(BadSample, match="'00000': altered bytes"):
        Shards(order="exact", urls=[str(path)], filters=RARE)
    lenient = Shards(order="exact", urls=[str(path)], filters=RARE, on_error="quarantine")
    assert lenient.dropped.bad == 2 and "2 more are bad" in lenient.dropped.table(lenient.stream.filters)
    found = [sample.key for sample in read(lenient, tmp_path)]
    noted = [json.loads(line)["key"] for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(noted) == ["00000", "00006"] and sum(" (for " not in key for key in found) == 5


@pytest.mark.parametrize("given", [{}, {"filters": RARE}, {"size": 16, "buckets": 8}])
@pytest.mark.parametrize("cut", [0, 1])
def test_a_cut_shard_in_quarantine(tmp_path, given, cut):
    """Pools, filters and buckets read every shard before training, and are no reason to end the run."""
    paths = [write_tar(tmp_path / f"{k}.tar", [scored(n) for n in range(20 * k, 20 * k + 20)]) for k in (0, 1)]
    assert main(["data", "index", f"{tmp_path}/*.tar"]) == 0
    data = paths[cut].read_bytes()
    paths[cut].write_bytes(data[: len(data) // 2])
    shards = Shards(order="exact", urls=[f"{tmp_path}/*.tar"], on_error="quarantine", **given)
    shards.quarantine_in(tmp_path)
    assert len(shards.prompts(100)) == len(set(shards.prompts(100))) < 40
    parts = shards.parts()
    found = [s for part in parts for s in part.read(seed=0, epoch=0, start=0, stop=len(part))]
    lost = len((tmp_path / "quarantine.jsonl").read_text().splitlines())
    assert sum(map(len, parts)) == len(found) == 40 and 0 < lost < 20
    assert sum(" (for " not in sample.key for sample in found) == 40 - lost


def test_a_rare_filter_is_looked_for_longer(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", [scored(n, 7.0 if n == 30 else 1.0) for n in range(40)])
    monkeypatch.setattr("sunlab.data.passes.PROBES", (10, 40))
    assert [s.key for s in read(Shards(order="exact", urls=[str(path)], filters=RARE), tmp_path)] == ["00030"]
    monkeypatch.setattr("sunlab.data.passes.PROBES", (10, 20))
    with pytest.raises(DataError, match="0 of 20 samples kept"):
        Shards(order="exact", urls=[str(path)], filters=RARE)


def test_a_key_that_an_index_made_up(tmp_path):
    """Without a manifest nothing vouches for an index; what it says of a key must be what the shard says."""
    path = write_tar(tmp_path / "a.tar", [members(n) for n in range(9)])
    assert main(["data", "index", str(path)]) == 0
    (tmp_path / "manifest.json").unlink()
    index = tmp_path / "a.tar.index"
    index.write_bytes(index.read_bytes().replace(b"00004", b"00044"))
    with pytest.raises(BadSample, match=r"'00044': altered bytes \(its key is '00004'\)"):
        read(Shards(order="exact", urls=[str(path)]), tmp_path)
