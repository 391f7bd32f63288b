"""`sunlab.plug` on diffusers' WanPipeline: one pass a step over a video, the negative prompt kept."""

import diffusers
import pytest
import torch
from tiny_bases import open_pipeline
from tiny_pipelines import file_for, moved

import sunlab
from sunlab.adapters import ADAPTERS
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.wan.layers import WAN
from sunlab.diffusion.grid import grid
from sunlab.draws import starting_noise
from sunlab.errors import DataError
from sunlab.export import load_adapter
from sunlab.export.shapes import shape_hash
from sunlab.pipelines.draw import Request, draw, with_adapter
from sunlab.solvers import Sampler
from sunlab.solvers.ddim import DDIM

PROMPTS, NEGATIVES, SEEDS, STEPS = ["a pizza", "a large tiger"], ["red apple", ""], [3, 4], 2
FAMILY = {"name": "wan", "frames": 5, "height": 32, "width": 16}
SIZE = {"num_frames": 5, "height": 32, "width": 16}
KINDS = {
    "sun": {"name": "sun"},
    "sun_w": {"name": "sun_w"},
    "sun_lora": {"name": "sun_lora", "rank": 2, "targets": ["to_q", "net.2", "proj_out"]},
    "lora": {"name": "lora", "rank": 2, "targets": ["to_q", "attn2.to_k", "net.2", "proj_out"]},
    "nag": {"name": "nag", "inner": "sun"},
}


@pytest.fixture(scope="module")
def folder(tiny_family):
    return tiny_family("wan")


@pytest.fixture(scope="module")
def pipe(folder):
    return open_pipeline(folder)


def written(kind, folder, place, **header):
    base = load_base(folder, backbone=FAMILY).freeze().backbone
    return file_for(base, place / f"{kind}.safetensors", moved(ADAPTERS.build(KINDS[kind]), base), steps=STEPS, **header)


def latents(pipe, negative=NEGATIVES, **more):
    noise = starting_noise(SEEDS, (4, 2, 4, 2))
    return pipe(PROMPTS, negative_prompt=negative, latents=noise, output_type="latent", **SIZE, **more).frames


@pytest.mark.parametrize("kind", ["sun", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "sun")])
def test_it_draws_what_sunlab_draws(kind, folder, pipe, tmp_path):
    file, base = written(kind, folder, tmp_path), load_base(folder, backbone=FAMILY).freeze()
    adapter, _ = load_adapter(file, base.backbone)
    sampling = Sampler(DDIM(base.backbone.path), grid(STEPS, path=base.backbone.path))
    wanted = draw(base, sampling, with_adapter(base, adapter), Request(PROMPTS, NEGATIVES, SEEDS), w=3.0).latents
    before, passes, own = latents(pipe, guidance_scale=3.0, num_inference_steps=STEPS), [], pipe.scheduler
    hook = pipe.transformer.register_forward_pre_hook(
        lambda network, args, kwargs: passes.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    given = {"guidance_scale": 3.0 if adapter.steered else 1.0}
    try:
        sunlab.plug(pipe, file)
        found = latents(pipe, NEGATIVES if adapter.uses_negative else None, **given)
    finally:
        hook.remove()
    assert passes == [2] * STEPS, "one pass a step, of the prompts alone"
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    if adapter.uses_negative:
        assert not torch.allclose(latents(pipe, ["green", "a pizza"], **given), found, atol=1e-4)
    sunlab.unplug(pipe)
    assert pipe.scheduler is own and type(pipe) is diffusers.WanPipeline
    assert torch.equal(latents(pipe, guidance_scale=3.0, num_inference_steps=STEPS), before), "restored to the bit"


def test_an_adapter_of_another_family_is_refused_by_name(folder, pipe, tmp_path):
    stated = {"family": "wan_1300m", "cross_attention": shape_hash(WAN["wan_1300m"])}
    with pytest.raises(DataError, match="made for a base of the family 'wan_1300m', this network is of"):
        sunlab.plug(pipe, written("sun", folder, tmp_path, base=stated))
