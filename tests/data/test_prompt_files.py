"""The sources "prompts" and "hf_dataset": text, JSON lines, CSV and Parquet, local and remote, as streams."""

import gzip
import json
import os
from itertools import islice
from random import Random

import fsspec
import pytest
from tars import png

from sunlab.data.datamodule import DataModule
from sunlab.data.hf_dataset import HFDataset
from sunlab.data.negatives import Mixture, Pool
from sunlab.data.prompt_files import Prompts
from sunlab.data.remote import SCHEMES
from sunlab.errors import ConfigError, DataError, StorageError
from sunlab.testing import SourceContract

PROMPTS = [f"a thing {n}, \u00e4" for n in range(90)]
LINES = "".join(f"{prompt}\n" for prompt in PROMPTS)


def write(folder, kind, name="a"):
    path = folder / f"{name}{kind}"
    if kind == ".txt":
        path.write_text(LINES, encoding="utf-8-sig")
    elif kind == ".csv":
        path.write_text("id,caption\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(PROMPTS)), encoding="utf-16")
    elif kind.startswith(".jsonl"):
        data = "".join(json.dumps({"caption": text, "score": n}) + "\n" for n, text in enumerate(PROMPTS)).encode()
        path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.table({"caption": PROMPTS, "score": list(range(90))}), path)
    return str(path)


@pytest.mark.parametrize("kind", [".txt", ".csv", ".jsonl", ".jsonl.gz", ".parquet"])
def test_every_prompt_once_a_pass(tmp_path, kind, monkeypatch):
    local = write(tmp_path, kind)
    monkeypatch.setitem(SCHEMES, "memory", "fsspec")
    with open(local, "rb") as file:
        fsspec.filesystem("memory").pipe(f"/prompts/a{kind}", file.read())
    for url in (local, f"memory://prompts/a{kind}"):
        source = Prompts(urls=[url])
        assert sorted(source.prompts(1000)) == sorted(PROMPTS) and len(source) == 90
        streams = [list(source.pipeline(streams=4, stream=v, passes=1)) for v in range(4)]
        assert sorted(i["sample"].prompt for items in streams for i in items) == sorted(PROMPTS)
        assert all(item["sample"].image is None for item in streams[0])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_keywords_of_a_column(tmp_path, kind):
    rows = [{"caption": "a fish", "keywords": ["sea", "animal"]}, {"caption": "a cow", "keywords": ["animal", "farm"]}]
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        rows += [
            {"caption": "a stone"},
            {"caption": "a cup", "keywords": "tea"},
            {"caption": "a hat", "keywords": [1, None]},
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    source = Prompts(urls=[str(path)], shuffle=1)
    assert sorted(source.keywords(10)) == ["animal", "farm", "sea"] and len(source.keywords(2)) == 2
    pool = Pool(source.prompts(10), source.keywords(10))  # as trajectories and evaluations draw negative prompts
    negative = Mixture(empty=0, pool=0, captions=0, keywords=1)(Random(0), "a plate", pool)
    assert set(negative.split(", ")) <= {"animal", "farm", "sea"}


def test_batches_of_prompts(tmp_path):
    module = DataModule(Prompts(urls=[write(tmp_path, ".txt")]), Mixture(), batch_size=8, streams=4, workers=1)
    batches = list(islice(module.loader(), 20))
    assert all(len(b) == 8 and b.images is None and b.latents is None for b in batches)
    assert len({key for b in batches for key in b.keys}) == 160 and {b for x in batches for b in x.negatives} & set(PROMPTS)


def test_filters_see_the_columns(tmp_path):
    few = {"name": "json_field", "field": "score", "max": 9, "missing": "drop"}
    assert sorted(Prompts(urls=[write(tmp_path, ".jsonl")], filters=[few]).prompts(100)) == PROMPTS[:10]


def test_what_is_wrong_is_named(tmp_path):
    (tmp_path / "x.pdf").touch()
    with pytest.raises(ConfigError, match=r"x\.pdf is none of \.txt"):
        Prompts(urls=[str(tmp_path / "x.pdf")])
    with pytest.raises(DataError, match="no such file"):
        Prompts(urls=[str(tmp_path / "none.txt")])
    with pytest.raises(DataError, match=r"a\.jsonl: sample '000000000': missing caption .*column 'prompt'"):
        Prompts(urls=[write(tmp_path, ".jsonl")], column="prompt").prompts(1)
    (tmp_path / "b.jsonl").write_text('{"caption": "x"}\nno json\n')
    with pytest.raises(DataError, match=r"b\.jsonl: sample '000000001': missing caption"):
        Prompts(urls=[str(tmp_path / "b.jsonl")]).prompts(2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prompts")


class TestPrompts(SourceContract):
    @pytest.fixture(autouse=True)
    def _file(self, folder):
        self.component = {"name": "prompts", "urls": [write(folder, ".txt")]}


class TestHFDataset(SourceContract):
    @pytest.fixture(autouse=True)
    def _files(self, folder):
        pytest.importorskip("datasets")
        files = [write(folder, ".jsonl", name) for name in "xy"]
        self.component = {"name": "hf_dataset", "path": "json", "data_files": files, "image": None}


def test_pictures_of_a_dataset(tmp_path):
    pytest.importorskip("datasets")
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = {"caption": PROMPTS[:20], "image": [{"bytes": png(n), "path": None} for n in range(20)]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    source = HFDataset(path="parquet", data_files=[str(tmp_path / "a.parquet")])
    found = {i["sample"].prompt: int(i["sample"].image[0, 0, 0]) for i in source.pipeline(stream=0, passes=1)}
    assert found == {PROMPTS[n]: n for n in range(20)}
    with pytest.raises(DataError, match="no column 'text'; it has caption, image"):
        HFDataset(path="parquet", data_files=[str(tmp_path / "a.parquet")], caption="text")


def test_a_damaged_gzip_file_is_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    packed = gzip.compress(b"".join(b'{"caption": "%d %s"}\n' % (n, os.urandom(40).hex().encode()) for n in range(2000)))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(StorageError, match=r"a\.jsonl\.gz: bad gzip stream"):
        len(Prompts(urls=[str(path)]))
