"""`configs/sd15/evaluate.yaml` as it stands, in a folder that holds the files it names: tiny models of random weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from sunlab.adapters.sun import SUN
from sunlab.app.evaluate import evaluate
from sunlab.backbones.pretrained import load_base
from sunlab.config.load import load_config
from sunlab.evaluation.base import EXTRACTORS, Extractor
from sunlab.export import save_adapter

CONFIG = Path(__file__).parents[2] / "configs" / "sd15" / "evaluate.yaml"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
SMALLER = ["count=16", "batch=5", "timed=1", "shown=2", "before.steps=3", "reference_steps=4", "subsets=2"]


@EXTRACTORS.register("rows_of_the_test")
class Rows(Extractor):
    """Means of a picture's rows."""

    label, width = "Rows", 32

    def __call__(self, images):
        return images.mean((1, 3))


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_base_folder, tiny_clip):
    """The files that the configuration names, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_base_folder, "stable-diffusion-v1-5")
    shutil.copytree(tiny_clip, "clip-vit-large-patch14")
    adapter = SUN()
    adapter.attach(load_base("stable-diffusion-v1-5").backbone)
    save_adapter(Path("sun_sd15.safetensors"), adapter, {"solver": "ddim"})
    Path("prompts.txt").write_text("a red apple\n\na photo of a koala\n")
    Path("negatives.txt").write_text("blurry\nwatermark\n")
    return tmp_path


def check(folder, title):
    report = json.loads((folder / "report.json").read_text())
    rows = report["bases"][0]["rows"]
    assert [row["nfe"] for row in rows] == [6, 8, 6, 4, 4, 4, 8, 4]
    assert all(row["alignment"]["clip_score"]["pairs"] == 16 for row in rows)
    sun = next(row for row in rows if "SUN" in row["name"])
    assert all(sun["values"][name]["value"] is not None for name in ("paired_features", "paired_l2", "kid_x1000", "fd"))
    assert sun["against"]["paired_l2"]["rival"] == "DPM-Solver++ 2 steps, CFG (equal passes)"
    text = (folder / "report.md").read_text()
    assert f"| {title} |" in text and "CLIP score" in text and "negative control," not in text


def test_its_path(here):
    overrides = [f"evaluate.{word}" for word in (*SMALLER, "extractor=rows_of_the_test")]
    check(evaluate(load_config([CONFIG], [f"run.dir={here}", *overrides])), "FD-Rows")


@pytest.mark.slow
def test_inceptions_fid(here):
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch:  # its constructor reads weights
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr(torch, "load", lambda *given, **more: {})
        network = inception.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path="none")
    torch.save(network.state_dict(), INCEPTION)
    overrides = [f"evaluate.{word}" for word in (*SMALLER, "metrics.3={name: frechet, full: true, components: 8}")]
    check(evaluate(load_config([CONFIG], [f"run.dir={here}", *overrides])), "FID")
