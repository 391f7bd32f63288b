"""A file in the authors' layout in a pipeline: its last step ends where the base's scheduler ends."""

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file
from tiny_pipelines import NEGATIVES, PROMPTS, latents, noise

import sunlab
from sunlab.adapters.sun import SUN
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.export.published import ASSUMED, number
from sunlab.types import Conditioning


@pytest.fixture
def published(pipe, tmp_path):
    """A file for the U-Net of `pipe`."""
    adapter = SUN()
    adapter.attach(UNetLayers(pipe.unet))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        tensors = {name: p + 0.2 * torch.randn(p.shape, generator=g) for name, p in adapter.tensors().items()}
    adapter.detach()
    save_file(number(tensors, {"adapter": adapter.spec, **ASSUMED}, "file"), tmp_path / "sun_adapter.safetensors")
    return tmp_path / "sun_adapter.safetensors"


@torch.no_grad()
def ddim(pipe, final_alpha):
    """Four steps of DDIM (arXiv 2010.02502, eq. 12, eta = 0) from the noise; the last one ends at `final_alpha`."""
    alphas = DDIMScheduler.from_config(pipe.scheduler.config).alphas_cumprod.double()
    positive, negative = pipe.encode_prompt(PROMPTS, "cpu", 1, True, NEGATIVES)
    adapter = pipe._sunlab.adapter
    state = adapter.state(Conditioning(positive), Conditioning(negative), torch.ones(3))
    x = noise().double()
    for t in (999, 749, 499, 249):
        alpha = alphas[t]
        after = alphas[t - 250] if t > 250 else final_alpha
        given = {"encoder_hidden_states": positive, "return_dict": False}
        epsilon = UNetLayers(pipe.unet).run(state, x.float(), t, **given)[0].double()
        x = after.sqrt() * (x - (1 - alpha).sqrt() * epsilon) / alpha.sqrt() + (1 - after).sqrt() * epsilon
    return x


@pytest.mark.parametrize("to_one", [False, True])
def test_the_last_step_ends_where_the_base_ends(to_one, pipe, published):
    settings = {"set_alpha_to_one": to_one, "prediction_type": "epsilon", "beta_end": 0.12, "beta_start": 0.05}
    own = pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **settings)
    sunlab.plug(pipe, published)
    assert pipe.scheduler.config.set_alpha_to_one is to_one
    final = torch.tensor(1.0).double() if to_one else own.alphas_cumprod[0].double()
    drawn = latents(pipe)
    torch.testing.assert_close(drawn.double(), ddim(pipe, final), atol=1e-4, rtol=1e-4)
    other = own.alphas_cumprod[0].double() if to_one else torch.tensor(1.0).double()
    assert not torch.allclose(drawn.double(), ddim(pipe, other), atol=1e-3)


def test_a_file_of_ours_ends_at_one(pipe, sun_file):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=False)
    assert sunlab.plug(pipe, sun_file).scheduler.config.set_alpha_to_one
