"""The autoencoder of a base: classes that a family takes, and the error for one that it does not."""

import json
import re
import shutil

import pytest
import torch
from diffusers import AutoencoderTiny

from sunlab.backbones.base import BACKBONES
from sunlab.backbones.pretrained import load_base
from sunlab.errors import ConfigError
from sunlab.modules.autoencoder import AutoencoderModule

FAMILIES = [name for name in BACKBONES.names() if BACKBONES.get(name).factory.configurations()]
TINY = ("sd", "sdxl", "pixart")
"""Families that take the small autoencoder, which has the latents of Stable Diffusion's."""


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_another_class_is_refused_by_folder_class_and_remedy(family, named, tmp_path):
    configurations = next(iter(BACKBONES.get(family).factory.configurations().values()))
    index = json.loads((configurations / "model_index.json").read_text())
    for kind in ("AsymmetricAutoencoderKL", *(() if family in TINY else ("AutoencoderTiny",))):
        (tmp_path / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", kind]}))
        said = (
            rf"{re.escape(str(tmp_path))}: .*its vae is {kind}; known: Autoencoder.*; put one of these into its folder vae"
        )
        with pytest.raises(ConfigError, match=rf"(?s){said}"):
            load_base(tmp_path, backbone=family if named else None)


@pytest.fixture(scope="module")
def small(folders, tmp_path_factory):
    """A base of Stable Diffusion with the small autoencoder."""
    folder = shutil.copytree(folders["sd15"], tmp_path_factory.mktemp("small") / "base")
    shutil.rmtree(folder / "vae")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1), latent_channels=4,
        ).save_pretrained(folder / "vae")  # fmt: skip
    return folder


def named(folder, kind):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", kind]}))
    return folder


def test_the_small_autoencoder(small):
    base = load_base(named(small, "AutoencoderTiny")).freeze()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    theirs = AutoencoderTiny.from_pretrained(small / "vae")
    with torch.no_grad():
        latents = theirs.encode(images.float() / 127.5 - 1).latents * theirs.config.scaling_factor
        pixels = (theirs.decode(latents / theirs.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(base.autoencoder.encode(images), latents)
    torch.testing.assert_close(base.autoencoder.decode(latents), pixels)
    assert base.autoencoder.factor * base.backbone.sample_shape[1] == 32


def test_a_folder_of_another_class_than_the_index_says(small):
    with pytest.raises(
        ConfigError, match=r"vae/config.json is of AutoencoderTiny, model_index.json beside it says AutoencoderKL"
    ):
        load_base(named(small, "AutoencoderKL"))


def test_which_are_not_trained(small, tiny_family):
    for folder, kind in ((named(small, "AutoencoderTiny"), "AutoencoderTiny"), (tiny_family("sana"), "AutoencoderDC")):
        said = rf"{re.escape(str(folder))}: .* AutoencoderKL in whole batches, not {kind}; set model.base"
        with pytest.raises(ConfigError, match=said):
            AutoencoderModule(load_base(folder))
