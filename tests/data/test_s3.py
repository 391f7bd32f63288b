"""An object store as it is: s3fs, against a server that speaks S3 on loopback.

Needs s3fs, and moto's server, which may live in an environment of its own: MOTO_SERVER names its program.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import time

import fsspec
import pytest

from sunlab.cli.main import main
from sunlab.data.shards import Shards
from sunlab.errors import DataError

PROGRAM = os.environ.get("MOTO_SERVER") or shutil.which("moto_server")
HERE = PROGRAM is not None and importlib.util.find_spec("s3fs") is not None
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HERE, reason="needs s3fs, and moto_server or MOTO_SERVER")]


@pytest.fixture
def bucket(folder, monkeypatch):
    """The indexed folder, in a bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([PROGRAM, "-H", "127.0.0.1", "-p", str(port)], env={**os.environ, "PYTHONPATH": ""})
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    try:
        assert main(["data", "index", f"{folder}/*.tar"]) == 0
        store = fsspec.filesystem("s3")
        store.mkdir("bucket")
        for path in folder.iterdir():
            store.put(str(path), f"bucket/set/{path.name}")
        yield store
    finally:
        server.kill()
        server.wait()


def keys(shards):
    return [s.key for s in shards.read(seed=0, epoch=0, start=0, stop=len(shards))]


def test_a_bucket_reads_as_the_folder_does(bucket, source, tmp_path):
    cache = {"cache": str(tmp_path / "c"), "shuffle": 5}
    remote = Shards(urls=["s3://bucket/set/train-*.tar"], **cache)
    assert keys(remote) == keys(source()) and remote.notice() is None
    assert len(Shards(urls=["s3://bucket/set/train-{00000..00001}.tar"], **cache)) == 19
    bucket.rm("bucket/set/train-00002.tar")
    bucket.invalidate_cache()
    with pytest.raises(DataError, match=r"lists 1 shards that are not there \(train-00002.tar"):
        Shards(urls=["s3://bucket/set/train-*.tar"], **cache)
