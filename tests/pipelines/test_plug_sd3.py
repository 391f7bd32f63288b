"""`sunlab.plug` into diffusers' pipelines of Stable Diffusion 3: one pass a step, with negative prompts; what is refused."""

import warnings

import diffusers
import pytest
import torch
from tiny_bases import open_pipeline
from tiny_pipelines import file_for, moved

import sunlab
from sunlab.adapters import ADAPTERS
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd3.tiny import write_tiny as tiny_sd3
from sunlab.diffusion.grid import grid
from sunlab.draws import starting_noise
from sunlab.errors import DataError
from sunlab.pipelines.draw import Request, draw, with_adapter
from sunlab.solvers import Sampler
from sunlab.solvers.ddim import DDIM

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
PROMPTS, NEGATIVES, SEEDS = ["a pizza", "a large tiger"], ["green", ""], [3, 4]
WITHOUT = {"text_encoder_3": None, "tokenizer_3": None}
ADAPTERS_ON = {
    "sun": "sun",
    "sun_w": "sun_w",
    "sun_lora": {"name": "sun_lora", "targets": ("to_q", "add_k_proj", "to_out.0")},
    "lora": {"name": "lora", "rank": 4, "targets": ("to_q", "add_k_proj", "to_out.0")},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd3(tmp_path_factory.mktemp("sd3") / "base", t5=False)


@pytest.fixture
def pipe(folder):
    return open_pipeline(folder, **WITHOUT)


@pytest.fixture(scope="module")
def make(folder, tmp_path_factory):
    """Name -> base, attached adapter and its file."""
    made = {}

    def of(name):
        if name not in made:
            base, adapter = load_base(folder).freeze(), ADAPTERS.build(ADAPTERS_ON[name])
            path = tmp_path_factory.mktemp("file") / "adapter.safetensors"
            file = file_for(base.backbone, path, moved(adapter, base.backbone), steps=4, guidance=(2.0, 4.0))
            made[name] = base, adapter, file
        return made[name]

    return of


def latents(pipe, **more):
    noise = starting_noise(SEEDS, (16, 8, 8))
    return pipe(PROMPTS, latents=noise, output_type="latent", **{"negative_prompt": NEGATIVES, **more}).images


@pytest.mark.parametrize("name", ADAPTERS_ON)
def test_it_draws_what_our_sampler_draws_in_one_pass_a_step(name, make, pipe):
    base, adapter, file = make(name)
    path = base.backbone.path
    with torch.no_grad():
        wanted = draw(
            base,
            Sampler(DDIM(path), grid(4, path=path)),
            with_adapter(base, adapter),
            Request(PROMPTS, NEGATIVES, SEEDS),
            w=3.0,
        ).latents
    before = dict(pipe.transformer.attn_processors)
    plain = latents(pipe, guidance_scale=3.0, num_inference_steps=4)
    sunlab.plug(pipe, file)
    passes = []
    count = pipe.transformer.register_forward_hook(lambda module, args, out: passes.append(len(out[0])))
    with warnings.catch_warnings():
        warnings.simplefilter("error" if name != "lora" else "ignore")
        found = latents(pipe)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert passes == [2] * 4
    count.remove()
    if name != "lora":
        assert not torch.allclose(latents(pipe, negative_prompt=["a red apple", "a pizza"]), found, atol=1e-4)
    sunlab.unplug(pipe)
    assert torch.equal(latents(pipe, guidance_scale=3.0, num_inference_steps=4), plain)
    assert pipe.transformer.attn_processors == before and not pipe.transformer._forward_pre_hooks


@pytest.mark.parametrize("over", ["nag", "vsf"])
def test_negative_guidance_without_training(over, folder, pipe):
    """Alone in the pipeline, at its own scheduler: what our loop draws, also beside T5's padding."""
    base, adapter = load_base(folder).freeze(), ADAPTERS.build(over)
    adapter.attach(base.backbone)
    path = base.backbone.path
    sampler = Sampler(DDIM(path), grid(2, path=path))
    wanted = draw(base, sampler, with_adapter(base, adapter), Request(PROMPTS, NEGATIVES, SEEDS), w=1.0).latents
    given = {"num_inference_steps": 2, "sigmas": [1.0, 0.5], "guidance_scale": 1.0}
    plain = latents(pipe, **given)
    sunlab.plug(pipe, over=over)
    found = latents(pipe, **given)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_image_to_image_and_a_controlnet(make, pipe, caplog):
    file = make("sun")[2]
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    img2img = diffusers.StableDiffusion3Img2ImgPipeline.from_pipe(pipe)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        control = diffusers.SD3ControlNetModel.from_transformer(
            pipe.transformer, num_layers=2, num_extra_conditioning_channels=0
        )
        for p in control.controlnet_blocks.parameters():
            torch.nn.init.normal_(p, std=0.1)
    net = diffusers.StableDiffusion3ControlNetPipeline(**pipe.components, controlnet=control)
    for kind, given in ((img2img, {"image": image, "strength": 0.5}), (net, {"control_image": image})):
        kind.set_progress_bar_config(disable=True)
        sunlab.plug(kind, file)
        passes = []
        count = kind.transformer.register_forward_hook(lambda module, args, out, passes=passes: passes.append(len(out[0])))
        drawn = [
            kind("a pizza", negative_prompt=n, generator=torch.Generator().manual_seed(0), output_type="latent",
                 height=32, width=32, **given).images
            for n in ("green", "", "green")
        ]  # fmt: skip
        count.remove()
        sunlab.unplug(kind)
        assert passes == [1] * (3 * (2 if "strength" in given else 4))
        assert torch.equal(drawn[0], drawn[2]) and not torch.allclose(drawn[0], drawn[1], atol=1e-4)
        assert not any("are not expected by" in message for message in caplog.messages)


def test_mistakes_are_refused(make, pipe, tmp_path):
    file = make("sun")[2]
    other = load_base(tiny_sd3(tmp_path / "sd3", "sd3", t5=False)).backbone
    with pytest.raises(DataError, match="layers differ"):
        sunlab.export.load_adapter(file, other)
    other = diffusers.StableDiffusion3Pipeline(**{**pipe.components, "transformer": other.transformer})
    with pytest.raises(DataError, match="layers differ"):
        sunlab.plug(other, file)
    with pytest.warns(UserWarning, match="skip_guidance_layers has no effect"):
        latents(sunlab.plug(pipe, file), skip_guidance_layers=[1])
