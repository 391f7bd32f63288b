"""sunlab's own configurations by name: from a checkout here, from a wheel in tests/test_wheel.py."""

from pathlib import Path

import pytest
import yaml

from sunlab.cli.main import main
from sunlab.config.load import load_config
from sunlab.errors import ConfigError
from sunlab.packaged import asset
from sunlab.sweep.spec import load_sweep

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("name", "file"), [("@quickstart", "quickstart.yaml"), ("@emoji/sun_msc.yaml", "emoji/sun_msc.yaml")]
)
def test_a_name_is_the_file(name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no checkout there
    loaded = load_config([name], ["seed=3"])
    assert loaded.saved == load_config([CONFIGS / file], ["seed=3"]).saved
    assert loaded.config.run.name == Path(file).stem


def test_what_a_configuration_names_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (asset(load_config(["@emoji/autoencoder"]).config.model.base) / "vae" / "config.json").is_file()
    assert load_config(load_sweep(["@ablation/smoke"]).config).config.data.source["name"] == "trajectories"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'@quickstat'; did you mean '@quickstart'\? known: @ablation/losses, "):
        load_config(["@quickstat"])


def test_list(capsys):
    assert main(["config", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(CONFIGS.rglob("*.yaml")))
    assert any(line.startswith("@quickstart ") and "Distil a SUN adapter" in line for line in lines)


def test_copy(tmp_path, capsys):
    assert main(["config", "--copy", str(tmp_path / "mine")]) == 0
    assert yaml.safe_load((tmp_path / "mine" / "quickstart.yaml").read_text())["loss"]["name"] == "msc"
    assert (tmp_path / "mine" / "emoji" / "model" / "model_index.json").is_file()
    assert main(["config", "--copy", str(tmp_path / "mine")]) == 78
    assert "is there already; choose another folder" in capsys.readouterr().err
