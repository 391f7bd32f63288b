"""Trainings in the order "stream" by the command: filters, a user's stage, and exact resuming after `kill -9`."""

import json
import shutil

import pytest
from checkpoints import KILL, saved

from sunlab.app.compose import given_source
from sunlab.cli.main import main
from sunlab.config.load import load_config
from sunlab.data.ledger import audit, steps_of

PLUGIN = """
from sunlab.data.pipeline import STAGES, Stage

@STAGES.register("shout")
class Shout(Stage):
    \"\"\"Captions in capitals.\"\"\"
    def __call__(self, items):
        for item in items:
            yield {**item, "txt": item["txt"].upper()}
"""


COLOUR = {"name": "caption_length", "min": 20, "missing": "drop"}  # "a green background" is shorter


@pytest.fixture(scope="module")
def shards(tiny_shards, tmp_path_factory):
    """Three shards that no manifest lists, and a plug-in with a stage. Their folder."""
    folder = tmp_path_factory.mktemp("unlisted")
    for number in range(3):
        shutil.copy(tiny_shards, folder / f"{number}.tar")
    (folder / "plugin.py").write_text(PLUGIN)
    return folder


def configured(tiny_config, folder, **source):
    """The tiny configuration over the shards, as YAML."""
    path = folder / "tiny.yaml"
    source = {"name": "shards", "urls": [f"{folder}/*.tar"], "shuffle": 20, **source}
    text = tiny_config.read_text()
    (line,) = (line for line in text.splitlines() if line.strip().startswith("source:"))
    path.write_text(text.replace(line, f"  source: {json.dumps(source)}") + f"plugins: ['{folder / 'plugin.py'}']\n")
    return path


def test_filters_are_logged_and_reported(tiny_config, shards, tmp_path, capsys):
    config = configured(tiny_config, shards, filters=[COLOUR, {"name": "aesthetic", "missing": "keep"}])
    assert (
        main(["fit", "--config", str(config), f"run.dir={tmp_path}", "trainer.max_steps=2", "run.checkpoint_every=1"]) == 0
    )
    report = json.loads((tmp_path / "tiny" / "filters.json").read_text())
    dropped = report["seen"] - report["kept"]
    assert report["filters"]["caption_length"] == {"dropped": dropped, "dropped_alone": dropped, "missing": 0}
    assert report["filters"]["aesthetic"] == {"dropped": 0, "dropped_alone": 0, "missing": report["seen"]}
    assert dropped > 0 and report["kept"] >= 2 * 8
    told = capsys.readouterr().err
    assert f"step 2: filters kept {report['kept']} of {report['seen']} samples; dropped first by caption_length" in told
    assert "step 1: filters kept" in told
    keys = [key for step in steps_of(tmp_path / "tiny" / "ledger.jsonl").values() for key in step]
    assert len(keys) == 16 and all(int(key.split("/")[2][:5]) % 3 for key in keys)  # every third caption is short


def test_filters_that_drop_everything_end_the_run_with_the_doctors_table(tiny_config, shards, tmp_path, capsys):
    config = configured(tiny_config, shards, filters=[{**COLOUR, "min": 500}])
    assert main(["fit", "--config", str(config), f"run.dir={tmp_path}"]) == 65
    ended = capsys.readouterr().err
    assert main(["doctor", "data", "--config", str(config)]) == 65
    examined = capsys.readouterr().err
    for told in (ended, examined):
        head, row, sum_ = told[told.index("filter  ") :].splitlines()[:3]
        assert head.split() == ["filter", "dropped", "alone", "missing"] and row.split()[0] == "caption_length"
        assert sum_ == f"0 of {row.split()[1]} samples kept"
        assert "the filters drop every sample that was looked at" in told


@pytest.mark.parametrize("order", ["stream", "exact"])
def test_a_users_stage_between_two_others(tiny_config, shards, capsys, monkeypatch, order):
    """Named in YAML; the doctor prints where it is."""
    monkeypatch.setenv("COLUMNS", "200")  # a stage a line
    stage = {"name": "shout", "after": "verify"}
    config = configured(tiny_config, shards, order=order, stages=[stage], keys="path")
    assert main(["doctor", "data", "--config", str(config), "--plan"]) == 0
    stages = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert stages[stages.index("verify") :][:2] == ["verify", "shout"] and "batch" in stages
    items = given_source(load_config([config]).config).pipeline(stream=0, passes=1)
    prompts = [item["sample"].prompt for item in items]
    assert len(prompts) == 3 * 48 and all(prompt == prompt.upper() for prompt in prompts)


@pytest.mark.slow
def test_killed_ranks_are_resumed_by_others(tiny_config, shards, tmp_path, sunlab_process):
    """Two ranks of which one is killed; then one rank with two dataloader workers; then two ranks with two each: the samples
    of every step, and the positions after the last, are those of a run on one rank that nothing broke."""
    config = configured(tiny_config, shards, filters=[COLOUR])
    words = ["optimizer.schedule=constant", "run.checkpoint_every=3"]

    def fit(name, steps, *more):
        return ["fit", "--config", str(config), *words, f"run.dir={tmp_path / name}", f"trainer.max_steps={steps}", *more]

    assert main(fit("one", 26)) == 0
    two = ["trainer.devices=2", "trainer.strategy=ddp"]
    killed = sunlab_process(
        *fit("more", 26, *two, "--plugin", KILL, "callbacks=[{name: kill_of_the_tests, rank: 1, after: 8}]")
    )
    assert killed.returncode not in (0, 65), killed.stderr
    assert saved(tmp_path / "more")["DataModule"]["step"] == 6
    assert main(fit("more", 15, "data.workers=2", "--resume", "last")) == 0
    ended = sunlab_process(*fit("more", 26, *two, "data.workers=2", "--resume", "last"))
    assert ended.returncode == 0, ended.stderr
    ledgers = [tmp_path / name / "tiny" / "ledger.jsonl" for name in ("one", "more")]
    assert steps_of(ledgers[0]) == steps_of(ledgers[1]) and len(steps_of(ledgers[0])) == 26
    assert all(audit(ledger).exact for ledger in ledgers) and audit(ledgers[1]).readers == {1, 2}
    states = [saved(tmp_path / name)["DataModule"] for name in ("one", "more")]
    assert states[0]["cursors"] == states[1]["cursors"] and len(json.dumps(states[0]["cursors"])) < 200
