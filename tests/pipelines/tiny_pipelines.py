"""Adapter files and a pipeline of diffusers' over the tiny base, for the tests of `sunlab.plug`."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.diffusion.grid import grid
from sunlab.diffusion.path import DiscreteVP
from sunlab.draws import starting_noise
from sunlab.export import save_adapter
from sunlab.export.header import spacing_of
from sunlab.export.shapes import describe_base

PROMPTS, NEGATIVES, SEEDS = ["a pizza", "a red background", "a large tiger"], ["", "a pizza", "blue"], [3, 4, 5]


def make(folder, path, adapter, **header):
    """An adapter file for the base in `folder`, its tensors moved off their initial values."""
    backbone = load_base(folder).freeze().backbone
    return make_for(backbone.unet, path, adapter, **{"prediction_type": backbone.prediction_type, **header})


def make_for(unet, path, adapter, *, solver="ddim", steps=4, **header):
    """The same for a U-Net, to which the adapter is attached."""
    moved(adapter, UNetLayers(unet))
    times, trained = grid(steps).tolist(), DiscreteVP.from_betas()
    said = {"solver": solver, "steps": steps, "times": times, "spacing": spacing_of(times, trained), "guidance": [2.0, 4.0],
            "base": describe_base(UNetLayers(unet))}  # fmt: skip
    return save_adapter(path, adapter, {**said, **header}, dtype=torch.float32)


def moved(adapter, network):
    """The adapter attached to the network, its tensors moved off their initial values."""
    adapter.attach(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in adapter.tensors().values():
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return adapter


def file_for(backbone, path, adapter, *, steps=2, guidance=(3.0, 3.0), **header):
    """A file of the adapter, which is attached to the backbone, with the header of an export."""
    times = grid(steps, path=backbone.path).tolist()
    said = {"solver": "ddim", "steps": steps, "times": times, "spacing": "trailing", "guidance": list(guidance),
            "base": describe_base(backbone), "prediction_type": backbone.prediction_type}  # fmt: skip
    return save_adapter(path, adapter, {**said, **header}, dtype=torch.float32)


def pipeline(folder, kind=StableDiffusionPipeline, **parts):
    pipe = kind.from_pretrained(folder, local_files_only=True, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipeline_xl(folder):
    """SDXL's, tiny and random, with the tokenizer and the autoencoder of the base in `folder`."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = CLIPTextConfig.from_pretrained(folder / "text_encoder", projection_dim=8)
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
        vae=AutoencoderKL.from_pretrained(folder / "vae"), unet=unet, scheduler=DDIMScheduler(),
        text_encoder=encoders[0], text_encoder_2=encoders[1], tokenizer=tokenizer, tokenizer_2=tokenizer,
        add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(n=3):
    return starting_noise(SEEDS[:n], (4, 8, 8))


def latents(pipe, prompt=PROMPTS, negative=NEGATIVES, **more):
    n = len(prompt) if isinstance(prompt, list) else 1
    given = {"num_inference_steps": 4, "output_type": "latent", "latents": noise(n), **more}
    return pipe(prompt, negative_prompt=negative, **given).images
