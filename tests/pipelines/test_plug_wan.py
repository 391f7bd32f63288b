"""`sunlab.plug` on diffusers' WanPipeline: one pass a step over a video, the negative prompt kept."""

import diffusers
import pytest
import torch

import sunlab
from sunlab.adapters import ADAPTERS
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.wan.layers import WAN
from sunlab.backbones.wan.transformer import Wan
from sunlab.diffusion.grid import grid
from sunlab.draws import starting_noise
from sunlab.errors import DataError
from sunlab.export import load_adapter, save_adapter
from sunlab.export.shapes import describe_base, shape_hash
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
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan") / "base"
    Wan.write_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = diffusers.WanPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def written(kind, folder, place, **header):
    """A file of the adapter, off its initial values."""
    base, adapter = load_base(folder, backbone=FAMILY).freeze().backbone, ADAPTERS.build(KINDS[kind])
    adapter.attach(base)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in adapter.tensors().values():
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    header = {"solver": "ddim", "steps": STEPS, "times": grid(STEPS, path=base.path).tolist(), "spacing": "trailing",
              "guidance": [3.0, 3.0], "base": describe_base(base), "prediction_type": "flow", **header}  # fmt: skip
    return save_adapter(place / f"{kind}.safetensors", adapter, header, dtype=torch.float32)


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
