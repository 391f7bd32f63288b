"""`sunlab.plug` on SANA's pipelines of diffusers: one pass a step, the negative prompt with its own mask."""

import copy
from concurrent.futures import ThreadPoolExecutor

import diffusers
import pytest
import torch
from tiny_bases import open_pipeline
from tiny_pipelines import file_for, moved

import sunlab
from sunlab.adapters import ADAPTERS
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sana.shapes import SANA
from sunlab.backbones.sana.text import INSTRUCTION
from sunlab.diffusion.grid import grid
from sunlab.draws import starting_noise
from sunlab.errors import ConfigError, DataError
from sunlab.export import load_adapter, save_adapter
from sunlab.export.shapes import shape_hash
from sunlab.pipelines.draw import Request, draw, with_adapter
from sunlab.solvers import Sampler
from sunlab.solvers.ddim import DDIM

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
PROMPTS, NEGATIVES, SEEDS, STEPS = ["a pizza", "a very large tiger"], ["blurred, green", ""], [3, 4], 2
KINDS = ("sun", "sun_w", "sun_lora", "lora", "nag")
LORA = {"rank": 2, "targets": ["to_q", "attn2.to_k", "conv_point", "proj_out"]}
SIZE = {"height": 32, "width": 32, "use_resolution_binning": False}


@pytest.fixture(scope="module")
def folder(tiny_family):
    return tiny_family("sana")


@pytest.fixture(scope="module")
def files(folder, tmp_path_factory):
    """Kind -> an adapter file, and the adapter's parameters; nag over SUN."""
    root, made = tmp_path_factory.mktemp("files"), {}
    for kind in KINDS:
        base = load_base(folder).freeze().backbone
        inner = {"inner": "sun"} if kind == "nag" else {}
        adapter = moved(ADAPTERS.build({"name": kind, **(LORA if "lora" in kind else {}), **inner}), base)
        made[kind] = file_for(base, root / f"{kind}.safetensors", adapter, steps=STEPS), adapter.spec
    return made


@pytest.fixture(scope="module")
def shared(folder):
    return open_pipeline(folder)


@pytest.fixture
def pipe(shared):
    yield shared
    if hasattr(shared, "_sunlab"):
        sunlab.unplug(shared)


def noise():
    return starting_noise(SEEDS, (4, 8, 8))


def latents(pipe, negative=NEGATIVES, prompts=PROMPTS, **more):
    return pipe(prompts, negative_prompt=negative, latents=noise(), output_type="latent", **SIZE, **more).images


@pytest.mark.parametrize("kind", KINDS)
def test_it_draws_what_sunlab_draws(kind, folder, files, pipe):
    base = load_base(folder).freeze()
    adapter, _ = load_adapter(files[kind][0], base.backbone)
    sampling = Sampler(DDIM(base.backbone.path), grid(STEPS, path=base.backbone.path))
    wanted = draw(base, sampling, with_adapter(base, adapter), Request(PROMPTS, NEGATIVES, SEEDS), w=3.0).latents
    before, passes = latents(pipe, guidance_scale=3.0, num_inference_steps=STEPS), []
    own = pipe.scheduler
    hook = pipe.transformer.register_forward_pre_hook(lambda network, args: passes.append(len(args[0])))
    try:
        sunlab.plug(pipe, files[kind][0])
        negative = NEGATIVES if adapter.uses_negative else None
        found = latents(pipe, negative, guidance_scale=3.0 if adapter.steered else 1.0)
    finally:
        hook.remove()
    assert passes == [2] * STEPS, "one pass a step, of the prompts alone"
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    if adapter.uses_negative:
        other = latents(pipe, ["blue", "a pizza"], guidance_scale=3.0 if adapter.steered else 1.0)
        assert not torch.allclose(other, found, atol=1e-4)
    sunlab.unplug(pipe)
    assert pipe.scheduler is own and type(pipe) is diffusers.SanaPipeline
    assert torch.equal(latents(pipe, guidance_scale=3.0, num_inference_steps=STEPS), before), "restored to the bit"


def test_shifted_times_are_those_of_our_own_loop(folder, pipe, tmp_path):
    """1 and 1/2, shifted by 1/2 to 1 and 1/3, then by the base's own shift f to f / (f + 2)."""
    base = load_base(folder).freeze()
    own = base.backbone.path.shift
    times = [1.0, round(1000 / 3) / 1000, 0.0]
    times[1] = own * times[1] / (1 + (own - 1) * times[1])
    adapter = moved(ADAPTERS.build({"name": "sun"}), base.backbone)
    file = file_for(base.backbone, tmp_path / "a.safetensors", adapter, steps=STEPS, shift=0.5, times=times)
    sampling = Sampler(DDIM(base.backbone.path), torch.tensor(times, dtype=torch.float64))
    wanted = draw(base, sampling, with_adapter(base, adapter), Request(PROMPTS, NEGATIVES, SEEDS), w=3.0).latents
    sunlab.plug(pipe, file)
    torch.testing.assert_close(latents(pipe, guidance_scale=1.0), wanted, atol=1e-4, rtol=1e-4)


def test_embeddings_as_given_keep_their_masks(files, pipe):
    sunlab.plug(pipe, files["sun"][0])
    wanted = latents(pipe, guidance_scale=1.0)
    tokens, mask, negative, negative_mask = super(type(pipe), pipe).encode_prompt(
        PROMPTS, True, negative_prompt=NEGATIVES, complex_human_instruction=INSTRUCTION.split("\n")
    )
    negative = negative.masked_fill(~negative_mask.bool()[..., None], 5.0)  # padding
    given = {"prompt_embeds": tokens, "prompt_attention_mask": mask, "negative_prompt_embeds": negative}
    found = latents(pipe, None, None, guidance_scale=1.0, negative_prompt_attention_mask=negative_mask, **given)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_threads_draw_their_own_negative_prompts(files, pipe):
    sunlab.plug(pipe, files["sun"][0])
    negatives = [["green", ""], ["a pizza", "blue"], ["", "tiger"]]
    wanted = [latents(pipe, negative, guidance_scale=1.0) for negative in negatives]
    copies = [copy.copy(pipe) for _ in negatives]
    for each in copies:
        each.scheduler = copy.deepcopy(pipe.scheduler)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda pair: latents(*pair, guidance_scale=1.0), zip(copies, negatives, strict=True)))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_controlnet_beside_it(files, pipe):
    config = {k: v for k, v in pipe.transformer.config.items() if k in ("in_channels", "num_attention_heads", "sample_size",
              "attention_head_dim", "num_cross_attention_heads", "cross_attention_head_dim", "cross_attention_dim",
              "caption_channels", "mlp_ratio")}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        controlnet = diffusers.SanaControlNetModel(num_layers=1, **config)
        torch.nn.init.normal_(controlnet.controlnet_blocks[0].weight)
    controlled = diffusers.SanaControlNetPipeline(**pipe.components, controlnet=controlnet)
    controlled.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sunlab.plug(controlled, files["sun"][0])
    given = {"control_image": image, "guidance_scale": 1.0}
    found = latents(controlled, **given)
    assert not torch.allclose(found, latents(controlled, ["blue", "a pizza"], **given), atol=1e-4), "negative prompts"
    assert not torch.allclose(found, latents(controlled, controlnet_conditioning_scale=0.0, **given), atol=1e-4), "the image"
    sunlab.unplug(controlled)


def test_what_is_refused(files, pipe):
    for kind in (diffusers.SanaPAGPipeline, diffusers.SanaSprintPipeline):
        other = kind(**pipe.components)
        with pytest.raises(ConfigError, match=r"several passes|has no do_classifier_free_guidance"):
            sunlab.plug(other, files["sun"][0])
    plugged = sunlab.plug(pipe, files["sun"][0])
    with pytest.raises(ConfigError, match="is plugged into this pipeline"):
        sunlab.plug(plugged, files["sun"][0])
    with pytest.warns(UserWarning, match="guidance_scale=7 has no effect"):
        latents(pipe, guidance_scale=7.0)


def test_an_adapter_of_another_family_is_refused_by_name(files, pipe, folder, tmp_path):
    _, spec = files["sun"]
    adapter = ADAPTERS.build(spec)
    base = load_base(folder).freeze().backbone
    adapter.attach(base)
    stated = {"family": "sana_600m", "cross_attention": shape_hash(SANA["sana_600m"])}
    file = save_adapter(tmp_path / "x.safetensors", adapter, {"solver": "ddim", "base": stated}, dtype=torch.float32)
    with pytest.raises(DataError, match="made for a base of the family 'sana_600m', this network is of"):
        sunlab.plug(pipe, file)
