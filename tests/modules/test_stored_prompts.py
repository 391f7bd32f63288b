"""Prompts that were encoded ahead are those that would be encoded now, their masks included, in every family."""

import pytest
import torch
from tiny_pixart import tiny_pixart

from sunlab.app.compose import build_base, build_data
from sunlab.app.latents import precompute
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.sd3.tiny import write_tiny
from sunlab.config.load import load_config
from sunlab.errors import DataError
from sunlab.modules.conditioning import positive_of

MAKE = {
    "pixart": tiny_pixart,
    "sana": BACKBONES.get("sana").factory.write_tiny,
    "sd3": lambda folder: write_tiny(folder, t5=False),
}


@pytest.mark.parametrize("family", MAKE)
def test_stored_equals_live(family, tiny_config, tmp_path):
    MAKE[family](tmp_path / "base")
    words = [f"model.base={tmp_path / 'base'}", "data.caption_dropout=0.5"]
    precompute(load_config([tiny_config], [*words, "data.source.limit=8"]), out=tmp_path / "latents")
    loaded = load_config([tiny_config], [*words, f"data.source={{name: latents, path: {tmp_path / 'latents'}}}"])
    base = build_base(loaded.config).freeze()
    samples = next(iter(build_data(loaded.config, base).loader()))
    assert "" in samples.prompts and any(samples.prompts) and samples.tokens is not None
    stored, live = positive_of(base, samples), base.encode(samples.prompts)
    torch.testing.assert_close(stored.tokens, live.tokens, atol=2e-2, rtol=2e-2)
    for name in ("mask", "words"):
        found, wanted = getattr(stored, name), getattr(live, name)
        assert (found is None) == (wanted is None) and (found is None or torch.equal(found, wanted)), name
    assert (live.mask is None) == (family == "sd3")
    if live.mask is not None:
        object.__setattr__(samples, "mask", None)
        with pytest.raises(DataError, match=r"no `mask`.*precompute"):
            positive_of(base, samples)
