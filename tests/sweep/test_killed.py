"""A sweep on this machine that is killed in mid-run, and resumed: the same results as an undisturbed one."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sunlab.app.sweep import look
from sunlab.files import read_json

SUN = {"name": "SUN", "seeds": [0, 1]}
LATER = {
    "name": "later",
    "needs": ["SUN"],
    "seeds": [0, 1],
    "do": ["evaluate"],
    "overrides": {"evaluate.variants": [{"name": "one", "adapter": "{SUN}/export/adapter.safetensors", "steps": 1}]},
}
STEPS = {"trainer.max_steps": 60, "run.checkpoint_every": 2}


def results(folder):
    """What each run found and trained, but for times."""
    found = {}
    for run in look(folder)[0]:
        metrics = read_json(folder / "runs" / run.id / "metrics.json")
        rows = metrics["evaluation"]["bases"][0]["rows"]
        adapter = folder / "runs" / run.id / "export" / "adapter.safetensors"
        trained = {k: v for k, v in (metrics["training"] or {}).items() if k != "seconds"}
        found[run.name] = ([row["values"] for row in rows], trained, adapter.read_bytes() if adapter.is_file() else b"")
    return found


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_killed_and_resumed(sweep_file, sunlab_process, tmp_path, number):
    file = sweep_file(list=[SUN, LATER], overrides=STEPS, launcher="local")
    whole = sunlab_process("sweep", "--config", file, "name=whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    words = [sys.executable, "-m", "sunlab", "sweep", "--config", str(file), "name=broken"]
    front = subprocess.Popen(words, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    folder = tmp_path / "sweeps" / "broken"
    until(lambda: list(folder.glob("runs/*/checkpoints/last.ckpt")))
    (status,) = [read_json(path) for path in folder.glob("runs/*/status.json")]
    if number == signal.SIGKILL:
        os.kill(status["pid"], number)  # the run, as an out-of-memory killer would
        front.kill()
    else:
        front.send_signal(number)
    front.wait(60)
    until(lambda: all(s.state != "running" for s in look(folder)[1].values()))
    states = {run.name: look(folder)[1][run.id].state for run in look(folder)[0]}
    assert states["SUN, seed 0"] == ("failed" if number == signal.SIGKILL else "stopped")
    assert not list(folder.glob("runs/*/metrics.json"))
    resumed = sunlab_process("sweep", "resume", folder)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert results(folder) == results(tmp_path / "sweeps" / "whole")
    assert read_json(folder / "runs" / look(folder)[0][0].id / "status.json")["attempt"] == 2
