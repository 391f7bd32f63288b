"""The published sweeps: every run of every file is a right configuration, and runs, shrunk, on the tiny base."""

import shlex
from pathlib import Path

import pytest
from tiny_sweeps import MEANS

from sunlab.app.sweep import look, start
from sunlab.app.trajectories import make_trajectories
from sunlab.config.load import load_config
from sunlab.files import read_json
from sunlab.sweep.collect import collect
from sunlab.sweep.folder import read_baseline
from sunlab.sweep.grid import plan
from sunlab.sweep.spec import load_sweep

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "ablation").glob("*.yaml"))
SMOKE = ROOT / "configs" / "ablation" / "smoke.yaml"


def small(file, folder, base, shards):
    """The sweep with its own methods, over the tiny base, three pictures and some steps."""
    words = {
        "dir": folder, "launcher": "inline_of_the_test", "budget.nfe": 60, "plugins": f"[{MEANS}]",
        "model.base": base, "data.batch_size": 8, "data.streams": 4, "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false", "evaluate.prompts.urls": f"[{shards}]", "evaluate.count": 3,
        "evaluate.batch": 4, "evaluate.control": "null", "evaluate.timed": 1, "evaluate.shown": 1,
        "evaluate.before.steps": 2,
        "evaluate.reference_steps": 3, "evaluate.extractor": "means_of_the_tests", "evaluate.metrics": "[paired_l2]",
        "evaluate.alignment": "null",
    }  # fmt: skip
    sweep = load_sweep([file], [f"{key}={value}" for key, value in words.items()])
    for run in plan(sweep):
        source = run.tree["data"]["source"]
        path = source.get("path")
        assert path in (None, "emoji/trajectories") or f"--out {path} " in file.read_text()  # how it is made
    return sweep


def on_tiny_data(sweep, shards, trajectories):
    """The tiny trajectories and shards instead of the shipped ones, wherever a group names them."""

    def moved(overrides):
        found = dict(overrides)
        if (source := found.get("data.source")) is not None:
            found["data.source"] = {**source, **({"path": str(trajectories)} if "path" in source else {"urls": [shards]})}
        return found

    groups = [{**vars(group), "overrides": moved(group.overrides)} for group in sweep.list]
    plain = {**{k: getattr(sweep, k) for k in vars(sweep)}, "list": [type(sweep.list[0])(**g) for g in groups]}
    default = {} if "data.source" in sweep.overrides else {"data.source.path": str(trajectories)}
    overrides = moved({**default, **sweep.overrides})
    return type(sweep)(**{**plain, "overrides": overrides})


@pytest.fixture
def shrunk(tiny_base_folder, tiny_shards, tiny_trajectories, tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)

    def trajectories_of(file):
        """By the command at the head of the file, where it has one."""
        said = next((line for line in file.read_text().splitlines() if "sunlab data trajectories" in line), None)
        if said is None:
            return tiny_trajectories
        keys = [word for word in shlex.split(said) if "=" in word and not word.startswith("model.base=")]
        tiny = load_config([tiny_config], ["teacher.steps=24", "student.steps=4", *keys])
        make_trajectories(tiny, out=tmp_path / "trajectories", count=16, shard_size=8)
        return tmp_path / "trajectories"

    def make(file):
        sweep = small(file, tmp_path, tiny_base_folder, tiny_shards)
        return on_tiny_data(sweep, tiny_shards, trajectories_of(file))

    return make


def test_they_are_found():
    assert {"methods", "losses", "switches", "steps", "states", "weighting", "places", "smoke"} <= {
        file.stem for file in FILES
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_run_is_a_right_configuration(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = load_sweep([file])
    runs = plan(sweep)
    assert sweep.name == file.stem and len({run.id for run in runs}) == len(runs) >= 3
    trained = [run for run in runs if "fit" in run.do]
    assert len({run.tree["budget"]["nfe"] for run in trained}) == 1  # what is compared costs the same
    if sweep.baseline:
        assert any(sweep.baseline.startswith(run.label) for run in runs)


def runs_through(sweep, tmp_path):
    folder = start(sweep, lambda _: None)
    runs, standings = look(folder)
    assert {standing.state: standing.error for standing in standings.values()} == {"done": ""}
    for run in runs:
        found = read_json(folder / "runs" / run.id / "metrics.json")
        assert found["evaluation"]["bases"][0]["rows"][-1]["values"]["paired_l2"]["value"] is not None
        if "fit" in run.do:
            assert found["training"]["equivalents"] >= 60
    files = collect(folder, runs, standings, baseline=read_baseline(folder))
    table = (folder / "table.md").read_text()
    assert all(run.label.replace("|", "\\|") in table for run in runs) and len(files) >= 5


def test_the_smoke_sweep_runs(shrunk, tmp_path):
    runs_through(shrunk(SMOKE), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in FILES if file != SMOKE], ids=lambda file: file.stem)
def test_it_runs(file, shrunk, tmp_path):
    runs_through(shrunk(file), tmp_path)
