"""Filters by the json's fields: one meaning in many spellings, and nothing decided in silence."""

import json

import pytest
from tars import members, write_tar

from registry import RegistryError
from sunlab.data.datamodule import DataModule
from sunlab.data.fields import field, number
from sunlab.data.filters import FILTERS, Facts
from sunlab.data.negatives import Empty
from sunlab.data.shards import Shards
from sunlab.errors import ConfigError, DataError

LAION_5B = {"URL": "u", "TEXT": "A red barn", "WIDTH": 1024.0, "HEIGHT": 512.0, "similarity": 0.31, "LANGUAGE": "en",
            "hash": 7, "pwatermark": 0.2, "punsafe": 0.01, "AESTHETIC_SCORE": 6.4}  # fmt: skip
RE_LAION = {"url": "u", "caption": "A red barn", "similarity": 0.31, "hash": 7, "punsafe": 0.01, "pwatermark": 0.2,
            "width": 256, "height": 128, "original_width": 1024, "original_height": 512, "language": "en", "key": "000",
            "aesthetic": 6.4, "status": "success", "exif": "{}", "sha256": "0"}  # fmt: skip
LAION_400M = {"URL": "u", "TEXT": "A red barn", "NSFW": "UNLIKELY", "WIDTH": "1024", "HEIGHT": "512", "similarity": "0.31"}


@pytest.mark.parametrize("record", [LAION_5B, RE_LAION, LAION_400M])
def test_the_same_meaning_in_every_spelling(record):
    assert field(record, "caption") == "A red barn"
    assert (number(record, "width"), number(record, "height"), number(record, "similarity")) == (1024, 512, 0.31)
    unsafe = FILTERS.build({"name": "nsfw", "missing": "error"})
    assert unsafe.value(Facts("k", None, record)) <= 0.01


@pytest.mark.parametrize(("name", "value"), [("aesthetic", 6.4), ("watermark", 0.2), ("size", 512), ("aspect_ratio", 2.0)])
def test_values(name, value):
    one = FILTERS.build({"name": name, "missing": "drop"})
    assert [one.value(Facts("k", None, record)) for record in (LAION_5B, RE_LAION)] == [value, value] and one.keeps(value)


@pytest.mark.parametrize("nothing", [{}, *({"aesthetic": value} for value in (None, float("nan"), "", "good", [7], True))])
def test_what_counts_as_missing(nothing):
    assert FILTERS.build({"name": "aesthetic", "missing": "keep"}).value(Facts("k", None, nothing)) is None


def test_missing_must_be_decided():
    for name in FILTERS.names():
        with pytest.raises(RegistryError, match="missing"):
            FILTERS.build({"name": name})
    with pytest.raises(ConfigError, match="min, max"):
        FILTERS.build({"name": "aesthetic", "min": None, "missing": "drop"})
    with pytest.raises(ConfigError, match="either allowed"):
        FILTERS.build({"name": "json_field", "field": "x", "missing": "drop"})
    with pytest.raises(ConfigError, match="name a language"):
        FILTERS.build({"name": "language", "allowed": [], "missing": "drop"})


def test_language_caption_and_any_field():
    facts = Facts("k", "A red barn", {"LANGUAGE": "EN", "source": "web", "ok": True})
    for request, kept in (
        ({"name": "language", "allowed": ["en", "de"]}, True),
        ({"name": "language", "allowed": ["de"]}, False),
        ({"name": "caption_length", "min": 11}, False),
        ({"name": "json_field", "field": "source", "allowed": ["web"]}, True),
        ({"name": "json_field", "field": "ok", "allowed": [1]}, False),
    ):
        one = FILTERS.build({**request, "missing": "error"})
        assert one.keeps(one.value(facts)) is kept


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """40 samples in 4 shards with aesthetic scores 0, 0.25, ...; every tenth without."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for shard in range(4):
        samples = [members(10 * shard + n) for n in range(10)]
        for n, sample in enumerate(samples):
            record = {} if n == 3 else {"AESTHETIC_SCORE": (10 * shard + n) / 4}
            sample["json"] = json.dumps(record).encode()
        write_tar(tmp_path / f"{shard}.tar", samples)
    return [f"{tmp_path}/*.tar"]


def test_filtered_samples_keep_an_exact_order(scored, tmp_path):
    filters = [{"name": "aesthetic", "min": 6, "missing": "drop"}]
    shards = Shards(order="exact", urls=scored, filters=filters, shuffle=4)
    wanted = [f"{n:05d}" for n in range(24, 40) if n % 10 != 3]
    read = [s.key for s in shards.read(seed=0, epoch=0, start=0, stop=len(shards))]
    assert sorted(read) == wanted and len(shards) == len(wanted) == shards.dropped.kept
    assert (shards.dropped.first["aesthetic"], shards.dropped.missing["aesthetic"]) == (25, 4)
    for skip in (1, 5, 13):
        assert [s.key for s in shards.read(seed=0, epoch=0, start=0, stop=15, skip=skip)] == read[skip:]
    again = Shards(order="exact", urls=scored, filters=filters, shuffle=4)  # remembered
    assert again.dropped == shards.dropped and again.identity() == shards.identity()
    assert len(Shards(order="exact", urls=scored, filters=[{**filters[0], "missing": "keep"}])) == 19
    assert len(Shards(order="exact", urls=scored, filters=filters, limit=5)) == 5
    module = DataModule(again, Empty(), batch_size=4, streams=4)
    module.report_in(tmp_path)
    module.state_dict()
    counts = {"dropped": 25, "dropped_alone": 25, "missing": 4}
    expected = {"seen": 40, "kept": len(wanted), "bad": 0, "filters": {"aesthetic": counts}}
    assert json.loads((tmp_path / "filters.json").read_text()) == expected
    with pytest.raises(ConfigError, match="was made with"):
        DataModule(Shards(order="exact", urls=scored), Empty(), batch_size=4, streams=4).load_state_dict(module.state_dict())


def test_filters_that_drop_everything_are_told_with_the_table(scored):
    filters = [
        {"name": "aesthetic", "min": 20, "max": 30, "missing": "drop"},
        {"name": "caption_length", "missing": "error"},
    ]
    with pytest.raises(DataError, match=r"drop every sample(.|\n)*aesthetic +40 +40 +4\n(.|\n)*0 of 40 samples kept"):
        Shards(order="exact", urls=scored, filters=filters)


def test_a_missing_value_that_is_an_error_names_the_sample(scored):
    with pytest.raises(DataError, match=r"\d.tar: sample '000\d3' has no value for the filter aesthetic"):
        Shards(order="exact", urls=scored, filters=[{"name": "aesthetic", "missing": "error"}])
