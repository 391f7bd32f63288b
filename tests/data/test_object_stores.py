"""Object stores through their own file systems of fsspec, against servers on loopback that speak as they do.

The Hub's is in `hub.py`. The others are skipped where they are missing: s3 needs s3fs and moto's server, gs needs gcsfs and
gcp-storage-emulator. Servers may live in environments of their own: MOTO_SERVER and GCS_EMULATOR name their programs.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import fsspec
import pytest
from hub import hub

from sunlab.cli.main import main
from sunlab.data.datamodule import DataModule
from sunlab.data.negatives import Empty
from sunlab.data.shards import Shards
from sunlab.errors import DataError, StorageError

MOTO = os.environ.get("MOTO_SERVER") or shutil.which("moto_server")
GCS = os.environ.get("GCS_EMULATOR") or shutil.which("gcp-storage-emulator")


@contextmanager
def server(program, *words):
    """A program that serves on a free port of loopback, which takes the place of `{port}` in its words."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, *(word.format(port=port) for word in words)]
    running = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ""}, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.kill()
        running.wait()


@pytest.fixture
def s3(folder, monkeypatch):
    if MOTO is None or importlib.util.find_spec("s3fs") is None:
        pytest.skip("needs s3fs, and moto_server or MOTO_SERVER")
    with server(MOTO, "-H", "127.0.0.1", "-p", "{port}") as address:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, address)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("bucket")
        yield upload("s3", folder)


@pytest.fixture
def gs(folder, monkeypatch):
    if GCS is None or importlib.util.find_spec("gcsfs") is None:
        pytest.skip("needs gcsfs, and gcp-storage-emulator or GCS_EMULATOR")
    words = ("start", "--host=127.0.0.1", "--port={port}", "--in-memory", "--default-bucket=bucket")
    with server(GCS, *words) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        yield upload("gs", folder)


@pytest.fixture
def hf(folder, monkeypatch):
    with hub(folder) as address:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": address, "token": False})
        yield "hf://datasets/lab/emoji/set", lambda name: (folder / name).unlink()


def upload(scheme, folder):
    """The URL of the folder's copy in the bucket, and what removes a file of it."""
    store = fsspec.filesystem(scheme)
    for path in folder.iterdir():
        store.put(str(path), f"bucket/set/{path.name}")
    return f"{scheme}://bucket/set", lambda name: store.rm(f"bucket/set/{name}")


@pytest.fixture
def indexed(folder):
    assert main(["data", "index", f"{folder}/*.tar"]) == 0


@pytest.fixture(params=["s3", "gs", "hf"])
def store(request, indexed):
    yield request.getfixturevalue(request.param)
    fsspec.get_filesystem_class(request.param).clear_instance_cache()  # another server comes next


def keys(shards):
    return [s.key for s in shards.read(seed=0, epoch=0, start=0, stop=len(shards))]


def test_a_store_reads_as_the_folder_does(store, source, tmp_path):
    url, _ = store
    cache = {"cache": str(tmp_path / "c"), "shuffle": 5}
    remote = Shards(urls=[f"{url}/train-*.tar"], **cache)
    assert keys(remote) == keys(source()) and remote.notice() is None
    assert len(Shards(urls=[f"{url}/train-{{00000..00001}}.tar"], **cache)) == 19


def test_forked_workers_fetch_what_the_rank_does_not_have(store, source, tmp_path):
    url, _ = store
    remote = Shards(urls=[f"{url}/train-*.tar"], shuffle=5, cache=str(tmp_path / "c"))
    for shard in (tmp_path / "c").glob("*.tar"):
        shard.unlink()

    def first(shards, workers):
        loader = DataModule(shards, Empty(), batch_size=8, streams=4, workers=workers).loader()
        return [batch.keys for batch, _ in zip(loader, range(9), strict=False)]

    assert first(remote, 2) == first(source(), 0)


def test_a_shard_that_is_gone_is_told(store, tmp_path):
    url, remove = store
    remove("train-00002.tar")
    fsspec.filesystem(url.partition(":")[0]).invalidate_cache()
    with pytest.raises(DataError, match=r"lists 1 shards that are not there \(train-00002.tar"):
        Shards(urls=[f"{url}/train-*.tar"], cache=str(tmp_path / "c"))
    remote = Shards(urls=[f"{url}/train-{{00000..00002}}.tar"], cache=str(tmp_path / "c"))
    with pytest.raises(StorageError, match=rf"{url}/train-00002.tar: cannot be read"):
        keys(remote)
