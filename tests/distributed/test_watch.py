"""Ranks that watch each other: silence, a told end, and what is no reason to end."""

import os
import signal
import subprocess
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from sunlab.distributed.parent import die_with
from sunlab.distributed.watch import DONE, Watch

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
    time.sleep(1.5 * SOON)
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
    assert f"rank {1 - alive} " in verdict.message and "--resume" not in verdict.message
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
    time.sleep(1.5 * SOON)
    assert one.verdict is None and not ended


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the child has what threads it needs
def test_a_slow_one_hears_of_the_first_ones_failure():
    """Rank 0, in a process of its own, fails and ends; rank 1 looks only a while later, and the store is still there."""
    read, write = os.pipe()
    first = os.fork()
    if first == 0:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
        watch = Watch(store, 0, 2, dead_after=30 * SOON)
        os.write(write, str(store.port).encode())
        store.wait(["alive/1"], timedelta(seconds=30))
        watch.close("00007.tar: damaged shard", 65)
        os._exit(0)
    store = TCPStore("127.0.0.1", int(os.read(read, 8)), is_master=False, timeout=timedelta(seconds=30))
    second = Watch(store, 1, 2, dead_after=SOON)
    time.sleep(1.0)
    second.start()
    verdict = second.wait_for_verdict()
    assert verdict is not None and verdict.code == 65 and verdict.message == "rank 0: 00007.tar: damaged shard"
    begun = time.monotonic()
    os.waitpid(first, 0)
    assert time.monotonic() - begun < 5, "it waited though all had heard"
    second.close()
    os.close(read)
    os.close(write)


def test_the_first_does_not_wait_for_ever(watches):
    one, _, _ = watches
    begun = time.monotonic()
    one.close("bad", 65)
    assert SOON <= time.monotonic() - begun < 3 * SOON


@pytest.mark.parametrize("how", ["it is over too", "it was started here and has ended", "all is well", "nobody listens"])
def test_the_first_does_not_wait_for_nothing(watches, how):
    one, other, _ = watches
    if how == "it is over too":
        other.close("bad as well", 65)
    if how == "it was started here and has ended":
        one.children.append(subprocess.Popen(["false"]))
        one.children[0].wait()
    begun = time.monotonic()
    one.close("done" if how == "all is well" else "bad", 0 if how == "all is well" else 65, wait=how != "nobody listens")
    assert time.monotonic() - begun < SOON / 2


def test_a_child_that_told_why_it_ended_is_believed(watches):
    """Its code alone would say that it died."""
    one, other, _ = watches
    one.children.append(subprocess.Popen(["false"]))
    one.children[0].wait()
    other.close("00007.tar: damaged shard", 65)
    one._talk = lambda: None  # it had no time to look
    one.start()
    for _ in range(100):
        time.sleep(0.05 if one.verdict is None else 0)
    assert one.verdict is not None and one.verdict.code == 65


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
