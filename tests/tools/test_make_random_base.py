"""Folders with random weights of the transformers' families, at tiny sizes, open in diffusers and in sunlab."""

import json
from functools import partial
from pathlib import Path

import diffusers
import pytest
import torch
from tiny_pixart import tiny_pixart

import make_random_base
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd3.tiny import write_tiny as tiny_sd3

WAN = {"name": "wan", "frames": 5, "height": 32, "width": 16}
FAMILIES = {
    "pixart": (tiny_pixart, "pixart"),
    "sana": (BACKBONES.get("sana").factory.write_tiny, "sana"),
    "sd3": (partial(tiny_sd3, t5=True), "sd3"),
    "wan": (BACKBONES.get("wan").factory.write_tiny, WAN),
}


def configurations(write, folder: Path) -> None:
    """Those of a tiny base, as the package has them of the full size: neither weights nor vocabularies."""
    write(folder)
    for file in folder.rglob("*"):
        if file.suffix == ".safetensors" or (file.parent.name.startswith("tokenizer") and "config" not in file.name):
            file.unlink()
    for file in folder.glob("text_encoder*/config.json"):
        config = json.loads(file.read_text())
        tokens = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}  # of CLIP's own tokenizer
        if "d_kv" in config:  # T5: the tool's tokenizer has 104 tokens
            tokens = {"vocab_size": 128}
        if not str(config["model_type"]).startswith("gemma"):
            file.write_text(json.dumps({**config, **tokens}))


@pytest.mark.parametrize(
    "family", ["sana", "wan", pytest.param("pixart", marks=pytest.mark.slow), pytest.param("sd3", marks=pytest.mark.slow)]
)
def test_it_opens(family, tmp_path, monkeypatch):
    write, backbone = FAMILIES[family]
    configurations(write, tmp_path / "families" / "tiny")
    monkeypatch.setattr(make_random_base, "ASSETS", tmp_path)
    with torch.random.fork_rng():
        counts = make_random_base.make("tiny", tmp_path / "out", dtype=torch.float32)
    base = load_base(tmp_path / "out", backbone=backbone).freeze()
    assert counts["transformer"] == sum(p.numel() for p in base.backbone.parameters())
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    assert type(pipe).__name__ == base.backbone.pipeline
    state = pipe.transformer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in base.backbone.transformer.state_dict().items())
    x, t = torch.randn(1, *base.backbone.sample_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5])
    assert bool(base.backbone.predict(x, t.double(), base.encode(["a pizza"])).isfinite().all())
