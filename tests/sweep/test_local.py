"""Runs on this machine: one after the other, in processes of their own."""

import sys

import pytest

from sunlab.errors import ConfigError
from sunlab.sweep.launchers import Job
from sunlab.sweep.local import Local
from sunlab.sweep.record import here, write_status

RUN = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
from sunlab.sweep.record import here, write_status
folder = Path(sys.argv[1])
status = here(1)
print("threads", os.environ.get("OMP_NUM_THREADS"))
write_status(folder, replace(status, state={state!r}, exit_code={code}))
sys.exit({code})
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job that ends in a state, with an exit code."""
    ends = {}
    monkeypatch.setattr(
        Job, "command", property(lambda job: [sys.executable, "-c", RUN.format(**ends[job.id]), str(job.folder)])
    )

    def make(name, state="done", code=0, needs=()):
        (tmp_path / name).mkdir()
        ends[name] = {"state": state, "code": code}
        return Job(name, name, tmp_path / name, tuple(needs))

    return make


def test_one_that_fails_stops_its_children_and_nothing_else(job, tmp_path):
    jobs = [job("a", "failed", 65), job("b"), job("child", needs=["a"]), job("grandchild", needs=["child"])]
    jobs.append(job("other", needs=["b"]))
    handles = dict(Local(threads=3).submit(jobs, {}))
    assert list(handles) == ["a", "b", "other"]
    assert (tmp_path / "b" / "log.txt").read_text() == "threads 3\n"
    assert not (tmp_path / "child" / "log.txt").exists()


def test_several_run_at_a_time_and_children_wait_for_their_parents(job, tmp_path):
    jobs = [job("a"), job("b"), job("child", needs=["a", "b"]), job("c", "failed", 65), job("orphan", needs=["c"])]
    submitted = Local(parallel=2).submit(jobs, {})
    assert [next(submitted)[0], next(submitted)[0]] == ["a", "b"]  # the second before the first has been waited for
    assert [id for id, _ in submitted] in (["c", "child"], ["child", "c"])
    assert not (tmp_path / "orphan" / "log.txt").exists()


def test_no_runs_at_a_time_is_refused():
    with pytest.raises(ConfigError, match=r"launcher\.parallel"):
        Local(parallel=0)


def test_an_interrupted_run_stops_the_sweep(job):
    jobs = [job("a", "stopped", 130), job("b")]
    submitted = Local().submit(jobs, {})
    assert next(submitted)[0] == "a"
    with pytest.raises(KeyboardInterrupt):
        next(submitted)


def test_what_would_run(tmp_path):
    text = Local(threads=2).script([Job("a", "a run, seed 0", tmp_path / "a b")])
    assert text.startswith("OMP_NUM_THREADS=2 ") and f"'{tmp_path / 'a b'}'" in text and "sweep run" in text


def test_cancelling_what_has_ended_is_no_error():
    Local().cancel({"a": f"{here(1).host}:999999999", "b": "elsewhere:1"})


def test_a_status_is_written_whole(tmp_path):
    write_status(tmp_path, here(1))
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
