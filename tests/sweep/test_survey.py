"""How a run stands, from its own words, the scheduler's, and the end of its log."""

import errno
import fcntl
import json
import os
import socket
import threading
import time
from dataclasses import asdict, replace

import pytest

from sunlab.errors import ConfigError, StorageError
from sunlab.files import hold
from sunlab.sweep.folder import log_name, run_folder, write_plan
from sunlab.sweep.grid import plan
from sunlab.sweep.record import RunState, alive, here, is_held, read_status, write_status
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
        known = {run.id: RunState(word) for run, word in zip(runs, (parent, child), strict=True) if word is not None}
        return [(s.state, s.error) for s in survey(folder, runs, known).values()]

    stand.folder, stand.runs = folder, runs
    return stand


def test_runs_without_a_status(swept):
    assert swept() == [("pending", "")] * 2
    assert swept("pending", "pending") == [("pending", "")] * 2
    (state, error), child = swept("gone", "gone")
    assert state == "cancelled" and error
    assert child[0] == "skipped" and "a/b, seed 0" in child[1] and "cancelled" in child[1]


@pytest.mark.parametrize("word", ["failed", "gone", "done"])
def test_a_start_that_failed_is_reported_with_the_last_line_of_its_log(swept, word):
    (state, error), child = swept(word, "gone", log="== start 1\nsrun: error: no such image\n\n")
    assert state == "failed" and word in error and error.endswith("srun: error: no such image")
    assert child[0] == "skipped" and "a/b, seed 0" in child[1] and "failed" in child[1]


def test_a_killed_run_is_reported_with_the_last_line_of_its_log(swept):
    running = replace(here(1), pid=999999)
    (state, error), _ = swept("failed", status=running, log="x\nOOM Killed process 7\n")
    assert state == "failed" and "sweep resume" in error and error.endswith("OOM Killed process 7")
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
        (HEAD.format(1) + "error: no such file\n" + TAIL, "error: no such file"),
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


def test_run_states():
    """Each property, against a table written by hand; the words are those of files written by earlier versions."""
    words = {"pending", "running", "requeued", "stopped", "failed", "skipped", "cancelled", "done", "gone"}
    assert set(RunState) == words

    def where(name):
        return {state.value for state in RunState if getattr(state, name)}

    assert where("is_queued") == {"pending", "running", "requeued"}
    assert where("is_final") == words - {"pending", "running", "requeued"}
    assert where("blocks") == {"stopped", "failed", "skipped", "cancelled", "gone"}
    assert where("is_error") == {"failed", "skipped"}
    assert where("may_start") == {"pending", "stopped", "skipped", "cancelled"}


def test_a_status_is_read_back(tmp_path):
    """Also one of an earlier version, which wrote the state as a plain string."""
    assert read_status(tmp_path) is None
    status = replace(here(2), state=RunState.STOPPED, ended=1.0, exit_code=75, error="stopped by SIGUSR1")
    write_status(tmp_path, status)
    assert json.loads((tmp_path / "status.json").read_text()) == {**asdict(status), "state": "stopped"}
    assert read_status(tmp_path) == status and type(read_status(tmp_path).state) is RunState


@pytest.mark.parametrize("text", ['{"state": "done"}', '{"state": "finished"}', "{}", "[]", '{"sta'])
def test_a_file_that_is_no_status_is_refused(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(StorageError, match=r"status\.json"):
        read_status(tmp_path)
