"""Adapter files and a pipeline of diffusers' over the tiny base, for the tests of `sunlab.plug`."""

import torch
from diffusers import StableDiffusionPipeline

from sunlab.diffusion.timesteps import grid
from sunlab.draws import Draws
from sunlab.export import save_adapter
from sunlab.export.header import spacing_of
from sunlab.export.shapes import describe_base
from sunlab.pipelines.base import load_base

PROMPTS, NEGATIVES, SEEDS = ["a pizza", "a red background", "a large tiger"], ["", "a pizza", "blue"], [3, 4, 5]


def make(folder, path, adapter, *, solver="ddim", steps=4, **header):
    """An adapter file for the base in `folder`, its tensors moved off their initial values."""
    base = load_base(folder).freeze()
    adapter.attach(base.backbone.unet)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.tensors().values():
            p.add_(0.2 * torch.randn(p.shape, generator=g))
    times = grid(steps).tolist()
    said = {"solver": solver, "steps": steps, "times": times, "spacing": spacing_of(times, 1000), "guidance": [2.0, 4.0],
            "base": describe_base(base.backbone.unet), "prediction_type": base.backbone.prediction_type}  # fmt: skip
    return save_adapter(path, adapter, {**said, **header}, dtype=torch.float32)


def pipeline(folder, kind=StableDiffusionPipeline, **parts):
    pipe = kind.from_pretrained(folder, local_files_only=True, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(n=3):
    return Draws(SEEDS[:n]).normal("noise", (4, 8, 8))


def latents(pipe, prompt=PROMPTS, negative=NEGATIVES, **more):
    n = len(prompt) if isinstance(prompt, list) else 1
    given = {"num_inference_steps": 4, "output_type": "latent", "latents": noise(n), **more}
    return pipe(prompt, negative_prompt=negative, **given).images
