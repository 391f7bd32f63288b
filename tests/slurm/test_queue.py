"""The launcher against a real queue, with a shell script in the place of sunlab: arrays, requeueing, dependencies, ends."""

import pytest

from sunlab.app.sweep import build_launcher
from sunlab.errors import ConfigError
from sunlab.sweep.launchers import Job
from sunlab.sweep.slurm import Slurm

pytestmark = pytest.mark.slurm

RUN = """#!/bin/bash
folder=${!#}
echo "$SLURM_PROCID of $SLURM_STEP_NUM_TASKS" >>"$folder/starts"
trap 'exit 75' USR1
. "$folder/do"
"""


@pytest.fixture
def job(on_slurm, tmp_path):
    program = tmp_path / "program.sh"
    program.write_text(RUN)
    program.chmod(0o755)

    def make(name, do, needs=(), **trainer):
        folder = tmp_path / "it's 50% of $HOME" / "runs" / name
        folder.mkdir(parents=True)
        (folder / "do").write_text(do)
        return Job(name, name, folder, needs, trainer or {"devices": 1})

    make.launcher = lambda **options: Slurm(python=str(program), **options)
    return make


AGAIN = 'test "$(wc -l <"$folder/starts")" -gt 1 || exit 75'


def test_a_graph(job, until):
    """A run that asks for it starts again and its child waits for it; a failed one's children are told, not kept waiting."""
    jobs = [
        job("again", AGAIN), job("good", "true"), job("bad", "exit 3"),
        job("child", "true", ("again", "good")), job("orphan", "true", ("bad",)), job("grandchild", "true", ("orphan",)),
    ]  # fmt: skip
    launcher = job.launcher(throttle=2)
    handles = dict(launcher.submit(jobs, {}))
    assert [handles[name].split("_")[1] for name in ("again", "good", "bad")] == ["0", "1", "2"]
    seen = set()

    def ended():
        states = dict(launcher.states(handles))
        seen.add(states["again"])
        return states if set(states.values()) <= {"done", "failed", "cancelled"} else None

    states = until(ended, 90, lambda: str(launcher.states(handles)))
    assert states == {
        "again": "done", "good": "done", "bad": "failed", "child": "done", "orphan": "cancelled", "grandchild": "cancelled",
    }  # fmt: skip
    assert "requeued" in seen
    log = jobs[0].log.read_text()
    assert "start 1\n" in log and "code 75: requeued" in log and "start 2\n" in log
    assert [len((j.folder / "starts").read_text().splitlines()) for j in jobs[:4]] == [2, 1, 1, 1]


def test_cancelled_is_not_put_back(job, until):
    """Though the run itself ends with 75."""
    (one,) = [job("one", "while :; do sleep 0.2; done")]
    launcher = job.launcher()
    handles = dict(launcher.submit([one], {}))
    until(lambda: (one.folder / "starts").is_file(), 30)
    launcher.cancel(handles)
    until(lambda: launcher.states(handles) == {"one": "cancelled"}, 40, lambda: one.log.read_text())
    assert "requeued" not in one.log.read_text()
    launcher.cancel(handles)  # one that has ended is no error


def test_two_nodes_start_every_rank(job, until):
    one = job("wide", 'test "$SLURM_STEP_NUM_NODES" = 2', num_nodes=2, devices=2)
    launcher = job.launcher()
    handles = dict(launcher.submit([one], {}))
    until(lambda: launcher.states(handles) == {"wide": "done"}, 40, lambda: one.log.read_text())
    assert sorted((one.folder / "starts").read_text().splitlines()) == [f"{rank} of 4" for rank in range(4)]


HOSTILE = ['it\'s $(x) `x`; # "x" ${HOME}', "100%j %x", "back\\slash \\n '\\''", "--uid=0", "#SBATCH --uid=0"]


@pytest.mark.parametrize("value", HOSTILE)
def test_sbatch_reads_a_value_as_it_was_written(job, on_slurm, value):
    launcher = job.launcher(sbatch={"comment": value, "hold": True})
    handles = dict(launcher.submit([job("one", "true")], {}))
    assert on_slurm.ask("squeue", "--noheader", f"--jobs={handles['one']}", "--format=%k").rstrip("\n") == value
    launcher.cancel(handles)


def test_an_unknown_partition(job, on_slurm, tmp_path):
    before = on_slurm.ask("squeue", "--noheader", "--states=all")
    with pytest.raises(ConfigError, match=r"(?s)invalid partition.*launcher.partition: .*this cluster has: low, main"):
        list(job.launcher(partition="lwo").submit([job("one", "true")], {}))
    assert on_slurm.ask("squeue", "--noheader", "--states=all") == before and not list(tmp_path.rglob("*.sbatch"))


def test_a_full_disk(job, on_slurm):
    """Made by a file system of its own, where this user may mount one."""
    import subprocess

    from sunlab.errors import StorageError

    one = job("one", "true")
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(one.folder.parent)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount; tests/sweep/test_slurm.py has the same with an error made up")
    try:
        before = on_slurm.ask("squeue", "--noheader", "--states=all")
        with pytest.raises(StorageError, match="No space left on device; no job was queued"):
            list(job.launcher().submit([one], {}))
        assert on_slurm.ask("squeue", "--noheader", "--states=all") == before and not list(one.folder.parent.glob(".probe*"))
    finally:
        subprocess.run(["umount", str(one.folder.parent)], check=True)


def test_jobs_that_the_queue_forgot_are_gone(on_slurm):
    assert build_launcher("slurm").states({"a": "999999", "b": "999998_4"}) == {"a": "gone", "b": "gone"}
