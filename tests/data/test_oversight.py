"""Loader workers that are stopped or stuck are ended, and so noticed. The pages they share with this process stay shared."""

import gc
import multiprocessing
import os
import signal
import time
from itertools import count, islice
from pathlib import Path

import pytest

from sunlab.data import loader, oversight
from sunlab.data.archive import Archive
from sunlab.data.datamodule import DataModule
from sunlab.data.negatives import Empty

# torch opens probe files while it looks for the cause of a failed receive; its SIGCHLD handler may raise between two of them
# and leave them to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(oversight, "PERIOD", 0.1)


def workers():
    return [int(word) for word in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


def going(shards, **given):
    """Batches of a loader with one worker, and its process id."""
    before = workers()
    module = DataModule(shards, Empty(), batch_size=8, streams=1, workers=1, dead_after=0.5, **given)
    batches = iter(module.loader())
    next(batches)
    (pid,) = set(workers()) - set(before)
    return batches, pid


def test_a_stopped_worker(source, capfd):
    """Also where what it made is on the way already: its tensors are still its own."""
    batches, pid = going(source())
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match=f"DataLoader worker .*{pid}"):
        list(islice(batches, 1000))
    assert time.monotonic() - begun < 10 and pid not in workers()
    assert f"loader worker {pid} has been stopped" in capfd.readouterr().err


def test_one_that_goes_on_in_time_is_left_alone(source):
    batches, pid = going(source())
    for _ in range(3):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
    for _ in range(20):
        next(batches)
    batches.close()
    assert pid not in workers()


def test_a_stuck_worker(source, monkeypatch, capfd):
    shards = source()
    parent, load, calls = os.getpid(), Archive.load, count()

    def stuck(self, *given):
        if os.getpid() != parent and next(calls) == 8:
            time.sleep(1000)
        return load(self, *given)

    monkeypatch.setattr(Archive, "load", stuck)
    batches, _ = going(shards, timeout=1.0)
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        next(batches)
    assert 1 <= time.monotonic() - begun < 10 and "no batch came for 1 s" in capfd.readouterr().err


def test_a_collection_in_a_worker_copies_no_shared_pages(source, monkeypatch, tmp_path):
    """Dozens of MiB, without a measure against it: the headers of all objects that this process has imported."""
    shards, seen = source(), tmp_path / "grown"
    parent, load = os.getpid(), Archive.load

    def collecting(self, *given):
        if os.getpid() != parent and not seen.exists():
            before = _private()
            gc.collect()
            seen.write_text(str(_private() - before))
        return load(self, *given)

    monkeypatch.setattr(Archive, "load", collecting)
    batches, _ = going(shards)
    batches.close()
    assert float(seen.read_text()) < 8


def _private():
    """MiB that this process has for itself."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("Private_Dirty:"))


def test_a_worker_that_dies_as_it_hands_over():
    """As torch tells it of one that dies at any other moment."""
    worker = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    worker.start()

    class Dying:
        _workers = (worker,)

        def __next__(self):
            raise ConnectionResetError

    with pytest.raises(RuntimeError, match=rf"DataLoader worker \(pid\(s\) {worker.pid}\) exited"):
        loader._next(Dying())


def test_what_is_missing_is_no_death():
    class Reading:
        def __next__(self):
            raise FileNotFoundError("shard")

    with pytest.raises(FileNotFoundError, match="shard"):
        loader._next(Reading())
