"""A deepened base has more layers and, before it is trained, computes what the given one does."""

import sys
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_bases import tiny_base

import deepen_base
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd3.tiny import write_tiny as tiny_sd3


def run(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["deepen_base.py", *map(str, words)])
    deepen_base.main()


def output(folder: Path) -> torch.Tensor:
    """Of a folder's U-Net in plain diffusers, for fixed latents and prompt tokens."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 16, 16, generator=draw)
    with torch.no_grad():
        return unet(x, 500, torch.randn(2, 77, unet.config.cross_attention_dim, generator=draw)).sample


@pytest.mark.parametrize("steps", [(2,), (3,), (2, 4)], ids=str)
def test_it_computes_what_the_base_does(steps, tmp_path, monkeypatch, capsys):
    given = base = tiny_base("sd15", tmp_path / "base")
    for layers in steps:
        run(monkeypatch, base, "--layers", layers, "--out", tmp_path / str(layers))
        base = tmp_path / str(layers)
    # the tool writes half precision
    half = UNet2DConditionModel.from_pretrained(given / "unet").half()
    half.save_pretrained(tmp_path / "half" / "unet")
    torch.testing.assert_close(output(base), output(tmp_path / "half"), rtol=0, atol=1e-5)
    deep = load_base(base).backbone.unet
    assert deep.config["layers_per_block"] == steps[-1]
    assert [len(block.resnets) for block in deep.down_blocks] == [steps[-1]] * 4
    assert [len(block.resnets) for block in deep.up_blocks] == [steps[-1] + 1] * 4
    assert f"{sum(p.numel() for p in deep.parameters()):,} weights" in capsys.readouterr().out
    diffusers.DiffusionPipeline.from_pretrained(base, local_files_only=True)


def test_every_weight_of_the_new_layers_can_be_trained(tmp_path, monkeypatch):
    """After a step from zero every new weight has a gradient: no layer is cut off."""
    run(monkeypatch, tiny_base("sd15", tmp_path / "base"), "--out", tmp_path / "deep")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "deep" / "unet", torch_dtype=torch.float32)
    optimizer = torch.optim.SGD(unet.parameters(), lr=0.1)
    x, tokens = torch.randn(2, 4, 16, 16), torch.randn(2, 77, unet.config.cross_attention_dim)
    for _ in range(2):
        optimizer.zero_grad()
        (unet(x, 500, tokens).sample - x).square().mean().backward()
        optimizer.step()
    assert not [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.any()]


def test_what_cannot_be_deepened_is_refused(tmp_path, monkeypatch, capsys):
    base = tiny_base("sd15", tmp_path / "base")
    run(monkeypatch, base, "--layers", 2, "--out", tmp_path / "two")
    for words, message in (
        ((tmp_path / "two", "--layers", 1), "layers_per_block is 2"),
        ((tiny_sd3(tmp_path / "sd3"), "--layers", 2), "its network is no UNet2DConditionModel"),
    ):
        with pytest.raises(SystemExit):
            run(monkeypatch, *words, "--out", tmp_path / "out")
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
