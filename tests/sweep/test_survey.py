"""How a run stands, from its own words, the scheduler's, and the end of its log."""

import errno
import fcntl
import os
import socket
import threading
import time
from dataclasses import replace

import pytest

from sunlab.errors import ConfigError
from sunlab.files import hold
from sunlab.sweep.folder import log_name, run_folder, write_plan
from sunlab.sweep.grid import plan
from sunlab.sweep.record import alive, here, is_held, write_status
from sunlab.sweep.spec import load_sweep
from sunlab.sweep.survey import last_line, survey


@pytest.fixture
def swept(sweep_file):
    """A parent and its child, planned. Returns how they stand, for what a scheduler says of them and what they say."""
    sweep = load_sweep([sweep_file(list=[{"name": "a/b"}, {"name": "child", "needs": ["a/b"]}])])
    runs = plan(sweep)
    folder = write_plan(sweep, runs)

    def stand(parent=None, child=None, status=None, log=None):
        if status is not None:
            write_status(run_folder(folder, runs[0]), status)
        if log is not None:
            (run_folder(folder, runs[0]) / "log.txt").write_text(log)
        known = {run.id: word for run, word in zip(runs, (parent, child), strict=True) if word is not None}
        return [(s.state, s.error) for s in survey(folder, runs, known).values()]

    stand.folder, stand.runs = folder, runs
    return stand


def test_nothing_was_said(swept):
    assert swept() == [("pending", "")] * 2
    assert swept("pending", "pending") == [("pending", "")] * 2
    assert swept("gone", "gone") == [
        ("cancelled", "left the queue without having started"),
        ("skipped", "needs a/b, seed 0, which is cancelled"),
    ]


@pytest.mark.parametrize("word", ["failed", "gone", "done"])
def test_a_start_that_failed_is_told_with_the_last_line_of_its_log(swept, word):
    (state, error), child = swept(word, "gone", log="== start 1\nsrun: error: no such image\n\n")
    assert state == "failed" and error.endswith(f"is {word} for the scheduler; its log ends: srun: error: no such image")
    assert child == ("skipped", "needs a/b, seed 0, which is failed")


def test_one_that_was_killed_is_told_with_the_last_line_of_its_log(swept):
    running = replace(here(1), pid=999999)
    (state, error), _ = swept("failed", status=running, log="x\nOOM Killed process 7\n")
    assert state == "failed" and "ended without a word" in error and error.endswith("its log ends: OOM Killed process 7")
    said = "[rank 3 on gpu07] error: shard 9 is torn"
    assert swept("failed", status=running, log=f"x\n{said}\nsrun: error: n1: task 0: Killed\n")[0] == ("failed", said)
    assert swept("requeued", status=running)[0] == ("requeued", "")
    told = replace(running, state="failed", error="data: no shard")
    assert swept("failed", status=told)[0] == ("failed", "data: no shard")


def test_a_log_is_found_by_the_runs_name(swept):
    swept(log="said\n")
    link = swept.folder / "logs" / log_name(swept.runs[0])
    assert link.name.startswith("a_b, seed 0 (") and link.read_text() == "said\n"


HEAD, TAIL = (
    "== 2026-01-01 10:00:00 job 7 on n1, start {}\n",
    "slurmstepd-n1: error: *** STEP 7.0 CANCELLED ***\nsrun: error: n1: task 0: Killed\n== 2026-01-01 10:01:00 code 1\n",
)


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (HEAD.format(1) + "error: no such bank\n" + TAIL, "error: no such bank"),
        (
            HEAD.format(1) + "error: old\n" + TAIL + HEAD.format(2) + "srun: error: no such image\n",
            "srun: error: no such image",
        ),
        (HEAD.format(1), HEAD.format(1).strip()),
    ],
    ids=["its own", "of its latest start", "none yet"],
)
def test_the_last_line_is_the_runs_own(tmp_path, log, line):
    (tmp_path / "log").write_text(log)
    assert last_line(tmp_path / "log") == line


def test_the_last_line_of_a_long_log(tmp_path):
    (tmp_path / "log").write_bytes(b"x" * 10000 + b"\n  the \xff end \n \n")
    assert last_line(tmp_path / "log") == "the \ufffd end" and last_line(tmp_path / "none") == ""


def test_a_lock_is_waited_for(tmp_path):
    def short():
        with hold(tmp_path):
            held.set()
            time.sleep(0.5)

    held = threading.Event()
    thread = threading.Thread(target=short)
    thread.start()
    held.wait()
    with pytest.raises(ConfigError, match="another process is at work"), hold(tmp_path, patience=0):
        pass
    with hold(tmp_path, patience=30):
        assert is_held(tmp_path)
    thread.join()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """A run is then known to be alive by its signs of life."""

    def none(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    status = here(1)
    assert status.host == socket.gethostname()
    with hold(tmp_path):
        (tmp_path / "beat").touch()
        assert is_held(tmp_path) is None and alive(tmp_path, status)
    old = time.time() - 1000
    os.utime(tmp_path / "beat", (old, old))
    assert not alive(tmp_path, status)
