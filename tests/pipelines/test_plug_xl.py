"""The same in SDXL's pipeline, whose prompts have two encoders and a pooled part: a tiny random one."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from tiny_pipelines import noise
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import sunlab
from sunlab.adapters.sun import SUN
from sunlab.diffusion.timesteps import grid
from sunlab.export import save_adapter
from sunlab.export.shapes import describe_base

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers


@pytest.fixture
def pipe(tiny_base_folder):
    tokenizer = CLIPTokenizer.from_pretrained(tiny_base_folder / "tokenizer")
    text = CLIPTextConfig.from_pretrained(tiny_base_folder / "text_encoder", projection_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1, cross_attention_dim=32,
            attention_head_dim=2, norm_num_groups=4, transformer_layers_per_block=(1, 2), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=8 + 6 * 8,
        )  # fmt: skip
        encoders = CLIPTextModel(text), CLIPTextModelWithProjection(text)
    pipe = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(tiny_base_folder / "vae"), unet=unet, scheduler=DDIMScheduler(),
        text_encoder=encoders[0], text_encoder_2=encoders[1], tokenizer=tokenizer, tokenizer_2=tokenizer,
        add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_plug_draw_unplug(pipe, tmp_path):
    adapter, times = SUN(), grid(4).tolist()
    adapter.attach(pipe.unet)
    header = {"solver": "ddim", "spacing": "trailing", "steps": 4, "times": times, "prediction_type": "epsilon",
              "base": describe_base(pipe.unet)}  # fmt: skip
    file = save_adapter(tmp_path / "xl.safetensors", adapter, header)
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
