"""The main job as a stranger runs it, on the model inside the package, shrunk in length only."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from sunlab.cli.main import main

ROOT = Path(__file__).parents[1]
SLOWEST = 500  # seconds: it hangs
SHORT = [
    "trainer.max_steps=3",
    "data.batch_size=8",
    "callbacks.3.measured=2",
    "callbacks.3.control=null",
    "callbacks.3.steps=3",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run's folder and standard output, of a process of its own."""
    runs = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "sunlab", "fit", "--config", "configs/quickstart.yaml", f"run.dir={runs}", *SHORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SLOWEST)
    assert done.returncode == 0, done.stderr
    return runs / "quickstart", done.stdout


def test_it_leaves_the_files_that_the_docs_name(finished):
    folder, _ = finished
    section = (ROOT / "docs" / "quickstart.md").read_text().split("## What a run leaves behind")[1].split("\n## ")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", section, re.M) for name in re.findall(r"`([^`]+)`", row)]
    assert "export/adapter.safetensors" in named
    assert [name for name in named if not (folder / name).exists()] == []


def test_the_adapter_describes_itself(finished):
    with safe_open(finished[0] / "export" / "adapter.safetensors", "pt") as file:
        header = json.loads(file.metadata()["sunlab"])
    assert header["adapter"]["name"] == "sun"


def test_the_table_counts_nfe(finished):
    rows = json.loads((finished[0] / "before_after.json").read_text())["rows"]
    nfe = {row["name"]: row["nfe"] for row in rows}
    assert [nfe[name] for name in nfe if name.startswith("this run")] == [4]
    assert nfe["DPM-Solver++ 2 steps, CFG 4"] == 4 and nfe["DPM-Solver++ 4 steps, CFG 4"] == 8
    assert nfe["no adapter, no guidance, 4 steps"] == 4
    assert rows[0]["content"]["content_kept"] == 1 and all(0 <= row["content"]["content_kept"] <= 1 for row in rows)
    assert rows[0]["distance"] == 0 and all(row["distance"] > 0 for row in rows[1:])


def test_the_picture_has_a_row_for_each(finished):
    rows = json.loads((finished[0] / "before_after.json").read_text())["rows"]
    with Image.open(finished[0] / "before_after.png") as picture:
        assert picture.height > len(rows) * 128


def test_it_says_what_to_try_next(finished):
    assert "sunlab sample" in finished[1] and "adapter.safetensors" in finished[1]


def test_the_saved_configuration_reruns(finished):
    assert main(["fit", "--config", str(finished[0] / "config.yaml"), "--dry-run"]) == 0


def test_sampling_with_the_adapter(finished, tmp_path):
    adapter = str(finished[0] / "export" / "adapter.safetensors")
    arguments = ["--prompt", "a large tiger", "--negative", "a white background", "--count", "2"]
    out = str(tmp_path / "grid.png")
    assert main(["sample", "--base", "emoji-sd", *arguments, "--adapter", adapter, "--out", out]) == 0
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > 2 * 128


def test_the_readmes_loss_in_ten_lines_trains(tmp_path):
    block = re.search(r"```python\n(from sunlab.losses import LOSSES.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block is not None
    (tmp_path / "my_loss.py").write_text(block[1])
    words = ["--config", str(ROOT / "configs" / "quickstart.yaml"), "--plugin", str(tmp_path / "my_loss.py"), "loss=mine"]
    assert main(["fit", *words, f"run.dir={tmp_path}", *SHORT[:2], "callbacks=[]"]) == 0
