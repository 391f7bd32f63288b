"""The same in SDXL's pipeline, whose prompts have two encoders and a pooled part: a tiny random one."""

import pytest
import torch
from tiny_pipelines import make_for, noise, pipeline_xl

import sunlab
from sunlab.adapters.sun import SUN

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers


@pytest.fixture
def pipe(tiny_base_folder):
    return pipeline_xl(tiny_base_folder)


def test_plug_draw_unplug(pipe, tmp_path):
    adapter = SUN()
    file = make_for(pipe.unet, tmp_path / "xl.safetensors", adapter)
    adapter.detach()
    given = {"latents": noise(2), "output_type": "latent", "height": 32, "width": 32}
    prompts = ["a pizza", "a large tiger"]
    before = pipe(prompts, num_inference_steps=4, **given).images
    sunlab.plug(pipe, file)
    sizes = []
    hook = pipe.unet.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    drawn = pipe(prompts, negative_prompt="red", **given).images
    hook.remove()
    assert sizes == [2] * 4
    assert not torch.allclose(pipe(prompts, negative_prompt="blue", **given).images, drawn)
    alone = pipe(prompts[0], negative_prompt="red", **{**given, "latents": noise(1)}).images
    torch.testing.assert_close(alone, drawn[:1], atol=1e-5, rtol=1e-4)
    positive, negative, pooled, _ = pipe.encode_prompt(prompts, device="cpu", negative_prompt=["red"] * 2)
    embeds = {"prompt_embeds": positive, "pooled_prompt_embeds": pooled, "negative_prompt_embeds": negative,
              "negative_pooled_prompt_embeds": torch.zeros_like(pooled)}  # fmt: skip
    assert torch.equal(pipe(**embeds, **given).images, drawn)
    sunlab.unplug(pipe)
    assert torch.equal(pipe(prompts, num_inference_steps=4, **given).images, before)
