"""One cluster of three nodes for all tests marked `slurm`. They are skipped where Slurm cannot be started, unless the
environment says SUNLAB_REQUIRE_SLURM=1, as continuous integration does."""

import os
import time
from pathlib import Path

import pytest
from cluster import Cluster, Unavailable, named
from tiny_sweeps import PLUGINS

ROOT = Path(__file__).parents[2]
NODES = ["sunlab-n1", "sunlab-n2", "sunlab-n3"]


@pytest.fixture(scope="session")
def slurm():
    cluster = Cluster(NODES, cpus=4)
    with named(NODES) as resolvable:
        try:
            cluster.up()
        except Unavailable as reason:
            cluster.down()
            if os.environ.get("SUNLAB_REQUIRE_SLURM") == "1":
                raise
            pytest.skip(f"no Slurm here: {reason}")
        cluster.env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        if not resolvable:
            cluster.env["MASTER_ADDR"] = "127.0.0.1"
        try:
            yield cluster
        finally:
            cluster.down()


@pytest.fixture
def on_slurm(slurm, monkeypatch):
    """The cluster, for this process and for the jobs that it queues."""
    for key, value in slurm.env.items():
        monkeypatch.setenv(key, value)
    yield slurm
    slurm.ask("scancel", f"--user={os.environ.get('USER', 'root')}")


@pytest.fixture
def until():
    """Look again and again until something is true."""

    def wait(true, seconds, what=lambda: ""):
        end = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < end, what()
            time.sleep(0.5)
        return found

    return wait


@pytest.fixture
def slow(on_slurm, tmp_path, monkeypatch):
    """A plugin that makes steps slow on the cluster, and only there. Returns its file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLOW_STEP", "0.4")
    return str(PLUGINS / "slow.py")
