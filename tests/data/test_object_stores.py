"""Object stores through their own file systems of fsspec, against servers on loopback that speak as they do."""

import importlib.util
from itertools import islice

import fsspec
import pytest
from stores import S3, Google, Hub, serving

from sunlab.cli.main import main
from sunlab.data import remote as remote_module
from sunlab.data.datamodule import DataModule
from sunlab.data.negatives import Empty
from sunlab.data.shards import Shards
from sunlab.errors import DataError, StorageError

KINDS = {"s3": (S3, "s3fs", "s3://bucket/set"), "gs": (Google, "gcsfs", "gs://bucket/set")}
KINDS["hf"] = (Hub, "huggingface_hub", "hf://datasets/lab/emoji/set")


@pytest.fixture
def store(scheme, folder, monkeypatch):
    """A server over an indexed folder, and the folder's URL there."""
    kind, package, url = KINDS[scheme]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    assert main(["data", "index", f"{folder}/*.tar"]) == 0
    with serving(kind, folder) as server:
        settings = {
            "s3": {"endpoint_url": server.address, "key": "x", "secret": "x", "client_kwargs": {"region_name": "us-east-1"}},
            "gs": {"endpoint_url": server.address, "token": "anon"},
            "hf": {"endpoint": server.address, "token": False},
        }
        monkeypatch.setitem(fsspec.config.conf, scheme, settings[scheme])
        yield server, url
    fsspec.get_filesystem_class(scheme).clear_instance_cache()  # another server comes next


def keys(shards):
    return [s.key for s in shards.read(seed=0, epoch=0, start=0, stop=len(shards))]


def streamed(shards, workers=0):
    """The keys of the first steps, without the folder's name."""
    loader = DataModule(shards, Empty(), batch_size=8, streams=4, workers=workers).loader()
    return [[key.rpartition("train-")[2] for key in batch.keys] for batch in islice(loader, 3)]


@pytest.mark.parametrize("scheme", KINDS)
def test_a_store_is_streamed_as_the_folder_is(store, source, monkeypatch):
    """In several blocks a shard, with faults, and from forked workers."""
    server, url = store
    monkeypatch.setattr(remote_module, "BLOCK", 8192)
    monkeypatch.setattr(remote_module, "WAIT", 0.01)
    remote = Shards(urls=[f"{url}/train-*.tar"], shuffle=5, order="stream")
    local = streamed(source(order="stream"))
    server.faults += ["cut", 503]
    assert streamed(remote) == local and remote.indexed and not server.faults
    assert streamed(remote, workers=2) == local


@pytest.mark.parametrize("scheme", ["s3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gs", "hf"))])
def test_a_store_is_cached_as_the_folder_reads(store, source, folder, tmp_path):
    """In the order exact, from forked workers too, that fetch what the rank does not have."""
    _, url = store
    cache = {"cache": str(tmp_path / "c"), "shuffle": 5}
    remote = Shards(urls=[f"{url}/train-*.tar"], **cache)
    assert remote.order == "exact" and keys(remote) == keys(source()) and remote.notice() is None
    for shard in (tmp_path / "c").glob("*.tar"):
        shard.unlink()
    assert streamed(remote, 2) == streamed(source())
    assert len(Shards(urls=[f"{url}/train-{{00000..00001}}.tar"], **cache)) == 19
    (folder / "train-00002.tar").unlink()
    fsspec.filesystem(url.partition(":")[0]).invalidate_cache()
    with pytest.raises(DataError, match=r"lists 1 shards that are not there \(train-00002.tar"):
        Shards(urls=[f"{url}/train-*.tar"], cache=str(tmp_path / "d"))
    gone = Shards(urls=[f"{url}/train-{{00000..00002}}.tar"], cache=str(tmp_path / "d"))
    with pytest.raises(StorageError, match=rf"{url}/train-00002.tar: cannot be read"):
        keys(gone)
