"""Loggers of a whole run, several at once: what reaches each, and what must not reach any file."""

import csv
import json
import sys

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sunlab.app.fit import fit
from sunlab.config.load import load_config
from sunlab.errors import ConfigError

SECRETS = {"WANDB_API_KEY": "c0ffee" * 7, "HF_TOKEN": "hf_" + "s3cr3t" * 6}
PROMPTS = "callbacks=[{name: before_after, prompts: [a pizza], negatives: [red], measured: 2, steps: 2}]"


def trained(config, folder, monkeypatch, *loggers):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    words = [f"run.dir={folder}", f"loggers=[{','.join(loggers)}]", "trainer.max_steps=2", PROMPTS]
    fit(load_config([config], words))
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
def test_wandb_and_mlflow_beside_the_others(tiny_config, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs pip install wandb")
    pytest.importorskip("mlflow", reason="needs pip install mlflow")
    run = trained(tiny_config, tmp_path, monkeypatch, "csv", "tensorboard", "wandb", "mlflow")
    assert (run / "csv" / "metrics.csv").is_file() and list((run / "tb").iterdir())
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    media = [path.as_posix() for path in (run / "wandb").rglob("files/media/*/*")]
    assert any("images/before_after" in name for name in media) and any("table/before_after" in name for name in media)
    (artifacts,) = (run / "mlflow").rglob("artifacts")
    assert yaml.safe_load((artifacts / "config.yaml").read_text())["loss"]["name"] == "msc"
    assert json.loads((artifacts / "before_after.json").read_text())["rows"]
    assert list((artifacts / "before_after").glob("*.png")) and list((run / "mlflow").rglob("metrics/loss"))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_pip_line(name, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(f"lightning.pytorch.loggers.{name}._{name.upper()}_AVAILABLE", False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"{name} needs the package {name}: pip install 'sunlab\[{name}\]'"):
        fit(load_config([tiny_config], [f"run.dir={tmp_path}", f"loggers=[{name}]"]))
    assert not list(tmp_path.glob("*/checkpoints"))
