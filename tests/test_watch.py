"""Ranks that watch each other: silence, a told end, and what is no reason to end."""

import os
import signal
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from sunlab.parent import die_with
from sunlab.watch import DONE, Watch

SOON = 0.9  # seconds after which silence is death here


@pytest.fixture
def stores():
    served = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=SOON))
    return served, TCPStore("127.0.0.1", served.port, is_master=False, timeout=timedelta(seconds=SOON))


@pytest.fixture
def watches(stores, monkeypatch):
    """Both ranks in one process; what would end the process is noted."""
    ended = []
    monkeypatch.setattr(Watch, "_end", lambda self, verdict: (ended.append(verdict), self.close()))
    pair = [Watch(store, rank, 2, dead_after=SOON) for rank, store in enumerate(stores)]
    yield *pair, ended
    for watch in pair:
        watch.close()
    time.sleep(2 * pair[0].period)  # the threads leave


def test_two_that_live(watches):
    one, other, ended = watches
    one.start()
    other.start()
    time.sleep(3 * SOON)
    assert one.verdict is None and other.verdict is None and not ended


@pytest.mark.parametrize("alive", [0, 1])
def test_a_silent_one_is_dead(watches, alive, monkeypatch):
    watch, ended = watches[alive], watches[2]
    if alive == 1:  # rank 0 also serves the store: of a stopped process nothing answers, however long one waits
        monkeypatch.setattr(watch, "_talk", lambda: time.sleep(3 * SOON))
    watch.start()
    verdict = None
    for _ in range(100):
        verdict = verdict or watch.verdict
        time.sleep(0.05 if verdict is None else 0)
    assert verdict is not None and verdict.code == 71
    assert f"rank {1 - alive} gave no sign of life" in verdict.message and "--resume last" in verdict.message
    time.sleep(5 * watch.period)
    assert ended == [verdict], "the main thread did not end by itself"


def test_another_ones_error_is_told(watches):
    one, other, _ = watches
    one.start()
    other.start()
    other.close("00007.tar: damaged shard", 65)
    verdict = one.wait_for_verdict()
    assert verdict is not None and verdict.code == 65 and verdict.message == "rank 1: 00007.tar: damaged shard"


def test_one_that_is_done_may_be_silent(watches):
    one, other, ended = watches
    one.start()
    other.close(DONE)
    time.sleep(2.5 * SOON)
    assert one.verdict is None and not ended


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of threads, which the child does not need
def test_what_a_process_started_goes_with_it():
    """A process starts another, and is killed; the pipe's end closes when the last of them is gone."""
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            die_with(os.getppid())
            os.write(write, b"ready")
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
        os._exit(0)
    os.close(write)
    assert os.read(read, 5) == b"ready"
    os.kill(middle, signal.SIGKILL)
    os.waitpid(middle, 0)
    begun = time.monotonic()
    assert os.read(read, 1) == b"" and time.monotonic() - begun < 5
    os.close(read)
