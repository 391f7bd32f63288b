"""The GPU report, rehearsed on a CPU at the smallest sizes, and what survives when a part is killed."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch

import gpu_report
from gpu import device_tests
from gpu.bases import random_base
from gpu.idle import share_idle
from gpu.parts import PARTS, Bench, measure
from gpu.record import Goal, Report
from gpu.supervise import run_limited, run_parts

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"
SLOW = {"training", "waits", "quickstart"}
REHEARSED = [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in PARTS if n != "tests"]  # which are tests


@pytest.fixture
def report(tmp_path):
    made = Report(tmp_path / "report")
    made.start({name: part.title for name, part in PARTS.items()}, machine="of the test")
    return made


@pytest.mark.parametrize("name", REHEARSED)
@pytest.mark.filterwarnings("ignore:shards have no index")
def test_a_rehearsal_measures(name, report):
    measure(name, report, "cpu", tiny=True)
    part = report.read()["parts"][name]
    assert part["state"] == "running"  # the parent says how it ended
    values = {figure["name"]: figure["value"] for figure in part["figures"]}
    assert all(value == value and value >= 0 for value in values.values())
    assert bool(values) == (name != "waits")  # what a CPU cannot tell is left out
    text = (report.folder / "report.md").read_text()
    assert all(figure in text for figure in values)


PART = """
import os, sys
from pathlib import Path
from gpu.record import Goal, Report
name, folder = sys.argv[1:]
report = Report(Path(folder))
report.add(name, "the first figure", [2.0, 1.0, 4.0], "ms", Goal(1.5))
if name == "killed":
    os.kill(os.getpid(), 9)
report.add(name, "the last figure", 1.0, "ms", Goal(1.5))
sys.exit(name == "fails")
"""


def test_a_part_that_is_killed_loses_no_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{TOOLS}")
    report, names = Report(tmp_path), ("killed", "fails", "ends")
    report.start({name: name for name in names})
    run_parts(
        report,
        dict.fromkeys(names, 1.0),
        lambda name, limit: [sys.executable, "-c", PART, name, str(tmp_path)],
        seconds=1800,
    )
    parts = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert "SIGKILL" in parts["killed"]["state"] and "exit status 1" in parts["fails"]["state"]
    assert parts["ends"]["state"] == "done"
    assert [len(parts[name]["figures"]) for name in names] == [1, 2, 2]
    first, last = parts["ends"]["figures"]
    assert (first["value"], first["low"], first["high"], first["met"], last["met"]) == (2.0, 1.0, 4.0, True, False)
    text = (tmp_path / "report.md").read_text()
    assert "| the first figure | 2 ms (1 to 4) | at least 1.5 | met |" in text
    assert "| the last figure | 1 ms | at least 1.5 | **missed** |" in text


def test_a_part_that_hangs_is_stopped_with_all_that_it_started(tmp_path):
    script = "sleep 3600 & echo $! > child; sleep 3600"
    done = run_limited(["sh", "-c", f"cd {tmp_path}; {script}"], 0.5, tmp_path / "log.txt")
    assert done.startswith("stopped at its limit")
    child = tmp_path / "child"
    if not (child.is_file() and child.read_text().strip()):
        return  # stopped before it started any
    state, deadline = Path(f"/proc/{child.read_text().strip()}/stat"), time.monotonic() + 120
    while state.is_file() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it runs on"
        time.sleep(0.05)


def test_without_time_a_part_is_not_started(tmp_path):
    report = Report(tmp_path)
    report.start({"a": "A part"})
    run_parts(report, {"a": 1.0}, lambda name, limit: ["/no/such/command"], seconds=0.5)
    assert report.read()["parts"]["a"]["state"].startswith("not started")


def test_a_cpu_rehearses_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--out", str(tmp_path / "none"), "--device", "cpu"])
    with pytest.raises(SystemExit):
        gpu_report.main()
    assert "--tiny" in capsys.readouterr().err and not (tmp_path / "none").exists()


TESTS = """
import pytest
pytestmark = pytest.mark.gpu
def test_right(): pass
def test_wrong(): assert 1 + 1 == 3
"""


def test_the_part_of_tests_counts_them_and_names_what_fails(report, tmp_path, monkeypatch):
    monkeypatch.setenv("SUNLAB_TEST_DEVICE", "cpu")  # restored afterwards
    (tmp_path / "test_two.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    device_tests.measure(Bench(report, "tests", "cpu", tiny=True), tmp_path)
    figures = report.read()["parts"]["tests"]["figures"]
    assert {figure["name"]: figure["value"] for figure in figures} == {
        "failed: test_two.py::test_wrong": 1,
        "test_two.py: passed": 1,
        "test_two.py: failed": 1,
    }


def test_goals_in_both_directions():
    assert Goal(0.95).met(0.95) and not Goal(0.95).met(0.94)
    assert Goal(1.02, at_least=False).met(1.02) and not Goal(1.02, at_least=False).met(1.03)


def test_idle_time_is_what_no_kernel_covers():
    assert share_idle([(0, 2), (1, 4), (6, 8), (7, 7.5), (9, 10)]) == pytest.approx(3 / 10)
    assert share_idle([]) == 0


@pytest.mark.parametrize("family", ["sdxl", "pixart_sigma", "sana_1600m", "sd35_medium"])
def test_random_bases_compute(family):
    base = random_base(family, "cpu", torch.float32, tiny=True)
    backbone = base.backbone
    x, t = torch.randn(1, *backbone.sample_shape), torch.full((1,), 0.5, dtype=torch.float64)
    out = backbone.predict(x, t, backbone.blank(1))
    assert out.shape == x.shape and out.isfinite().all() and out.std() > 0
