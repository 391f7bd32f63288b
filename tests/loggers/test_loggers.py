"""Loggers of a whole run, several at once: what reaches each, and what must not reach any file."""

import csv
import json
import sqlite3
import sys

import huggingface_hub
import pytest
import yaml
from hub_server import hub_server
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sunlab.app.fit import fit
from sunlab.config.load import load_config
from sunlab.errors import ConfigError

SECRETS = {"WANDB_API_KEY": "c0ffee" * 7, "HF_TOKEN": "hf_" + "s3cr3t" * 6}
PROMPTS = "callbacks=[{name: before_after, prompts: [a pizza], negatives: [red], measured: 2, steps: 2}]"


def trained(config, folder, monkeypatch, *loggers, steps=2, resume=None):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    words = [f"run.dir={folder}", f"loggers=[{','.join(loggers)}]", f"trainer.max_steps={steps}", PROMPTS]
    fit(load_config([config], words), resume=resume)
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not [name for name, value in SECRETS.items() if value.encode() in written]
    return folder / "tiny"


def test_csv_and_tensorboard(tiny_config, tmp_path, monkeypatch):
    run = trained(tiny_config, tmp_path, monkeypatch, "csv", "tensorboard")
    with (run / "csv" / "before_after.csv").open() as file:
        assert [row[0] for row in csv.reader(file)][1:3] == ["DPM-Solver++ 2 steps, CFG 3", "this run, 2 steps"]
    assert "loss" in (run / "csv" / "metrics.csv").read_text().partition("\n")[0]
    found = EventAccumulator(str(run / "tb")).Reload().Tags()
    assert "loss" in found["scalars"] and "before_after" in found["images"]
    assert {"config/text_summary", "before_after/text_summary"} <= set(found["tensors"])


@pytest.mark.slow
def test_wandb_and_mlflow_beside_the_others_and_resumed(tiny_config, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs pip install wandb")
    pytest.importorskip("mlflow", reason="needs pip install mlflow")
    run = trained(tiny_config, tmp_path, monkeypatch, "csv", "tensorboard", "wandb", "mlflow")
    assert (run / "csv" / "metrics.csv").is_file() and list((run / "tb").iterdir())
    (offline,) = (run / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))
    media = [path.as_posix() for path in (run / "wandb").rglob("files/media/*/*")]
    assert any("images/before_after" in name for name in media) and any("table/before_after" in name for name in media)
    (artifacts,) = (run / "mlflow").rglob("artifacts")
    assert yaml.safe_load((artifacts / "config.yaml").read_text())["loss"]["name"] == "msc"
    assert json.loads((artifacts / "before_after.json").read_text())["rows"]
    assert list((artifacts / "before_after").glob("*.png")) and list((run / "mlflow").rglob("metrics/loss"))

    trained(tiny_config, tmp_path, monkeypatch, "wandb", "mlflow", steps=4, resume="last")
    identity = offline.name.rpartition("-")[2]  # wandb writes a folder a process; `wandb sync` joins those of one id
    assert {path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")} == {identity}
    assert {(run / "wandb" / "run_id").read_text().strip(), identity} == {identity}
    assert list((run / "mlflow").rglob("artifacts")) == [artifacts]
    (losses,) = (run / "mlflow").rglob("metrics/loss")
    assert [int(line.split()[2]) for line in losses.read_text().splitlines()] == [0, 1, 2, 3]

    trained(tiny_config, tmp_path, monkeypatch, "wandb", "mlflow")  # from the start: another run
    assert len({path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")}) == 2
    assert len(list((run / "mlflow").rglob("artifacts"))) == 2


@pytest.mark.slow
def test_trackio_resumed(tiny_config, tmp_path, monkeypatch):
    """With a token, a Space and a bucket of the Hub in the environment, and nothing is sent to it."""
    pytest.importorskip("trackio", reason="needs pip install trackio")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "nobody/nowhere")
    monkeypatch.setenv("TRACKIO_BUCKET_ID", "nobody/nowhere")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with hub_server() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.address)
        run = trained(tiny_config, tmp_path, monkeypatch, "trackio")
        trained(tiny_config, tmp_path, monkeypatch, "trackio", steps=4, resume="last")
        assert hub.requests == []
        with pytest.raises(huggingface_hub.errors.HfHubHTTPError):
            huggingface_hub.whoami()  # trackio's own request, which the server would have counted
        assert "GET /api/whoami-v2" in hub.requests
    assert not (tmp_path / "elsewhere").exists()
    with sqlite3.connect(run / "trackio" / "sunlab.db") as base:
        ids, configs = (base.execute(f"SELECT run_id FROM {table}").fetchall() for table in ("metrics", "configs"))
        logged = [(step, json.loads(text)) for step, text in base.execute("SELECT step, metrics FROM metrics ORDER BY id")]
    assert {*ids, *configs} == {((run / "trackio" / "run_id").read_text().strip(),)}
    assert [step for step, values in logged if "loss" in values] == [0, 1, 2, 3]
    tables = [values["before_after_table"] for _, values in logged if "before_after_table" in values]
    assert len(tables) == 2 and tables[0]["_value"][0]["NFE"]
    assert len(list((run / "trackio" / "media").rglob("*.png"))) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # aim's own
def test_aim_resumed(tiny_config, tmp_path, monkeypatch):
    aim = pytest.importorskip("aim", reason="needs pip install aim")
    run = trained(tiny_config, tmp_path, monkeypatch, "aim")
    trained(tiny_config, tmp_path, monkeypatch, "aim", steps=4, resume="last")
    identity = (run / "aim" / "run_id").read_text().strip()
    from aim.sdk.index_manager import RepoIndexManager

    RepoIndexManager.get_index_manager(aim.Repo(str(run / "aim"))).index(identity)  # as `aim up` does
    (found,) = aim.Repo(str(run / "aim")).iter_runs()
    assert found.hash == identity and found["config"]["loss"]["name"] == "msc"
    (loss,) = [metric for metric in found.metrics() if metric.name == "loss"]
    assert sorted(loss.data.items_list()[0]) == [0, 1, 2, 3]
    kinds = found.collect_sequence_info(("images", "texts"))
    assert [info["name"] for info in kinds["images"]] == ["before_after"]
    assert [info["name"] for info in kinds["texts"]] == ["before_after_table"]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio", "aim"])
def test_a_missing_package_is_named_with_its_pip_line(name, tiny_config, tmp_path, monkeypatch):
    if name in ("wandb", "mlflow"):
        monkeypatch.setattr(f"lightning.pytorch.loggers.{name}._{name.upper()}_AVAILABLE", False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"{name} needs the package {name}: pip install 'sunlab\[{name}\]'"):
        fit(load_config([tiny_config], [f"run.dir={tmp_path}", f"loggers=[{name}]"]))
    assert not list(tmp_path.glob("*/checkpoints"))
