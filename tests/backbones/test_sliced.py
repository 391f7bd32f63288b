"""`model.autoencoder_batch`: the same latents and pictures, a few at a time."""

from dataclasses import replace

import pytest
import torch
from tiny_bases import tiny_base

from sunlab.backbones.autoencoder import Sliced
from sunlab.backbones.pretrained import load_base, save_base
from sunlab.errors import ConfigError
from sunlab.modules.autoencoder import AutoencoderModule


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base(tiny_base("sd15", tmp_path_factory.mktemp("base") / "sd15")).freeze()


def test_the_same_latents_and_pictures(base):
    taken, sliced = [], Sliced(base.autoencoder, 2)
    hook = base.autoencoder.vae.encoder.register_forward_pre_hook(lambda _, args: taken.append(len(args[0])))
    images = torch.randint(256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = sliced.encode(images)
    hook.remove()
    assert taken == [2, 2, 1]
    torch.testing.assert_close(latents, base.autoencoder.encode(images), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sliced.decode(latents), base.autoencoder.decode(latents), rtol=1e-5, atol=1e-5)
    alone = torch.cat([base.autoencoder.encode(image[None]) for image in images])
    assert torch.equal(Sliced(base.autoencoder, 1).encode(images), alone)


def test_it_is_saved_as_what_it_wraps(base, tmp_path):
    sliced = replace(base, autoencoder=Sliced(base.autoencoder, 2))
    save_base(sliced, tmp_path, dtype=torch.float32)
    x = torch.ones(1, *base.backbone.sample_shape)
    assert torch.equal(load_base(tmp_path).autoencoder.decode(x), base.autoencoder.decode(x))
    assert sliced.encoders_identity() == base.encoders_identity()


def test_refused(base):
    with pytest.raises(ConfigError, match=r"model\.autoencoder_batch is 0.*at least 1"):
        Sliced(base.autoencoder, 0)
    with pytest.raises(ConfigError, match=r"model\.autoencoder_batch"):
        AutoencoderModule(replace(base, autoencoder=Sliced(base.autoencoder, 2)))
