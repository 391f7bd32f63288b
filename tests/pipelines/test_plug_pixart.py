"""`sunlab.plug` on PixArt's pipelines of diffusers, which pass no keyword arguments to the attention layers."""

import copy
from concurrent.futures import ThreadPoolExecutor

import diffusers
import pytest
import torch
from tiny_bases import open_pipeline
from tiny_pipelines import file_for, moved
from tiny_pixart import tiny_pixart

import sunlab
from sunlab.adapters import ADAPTERS
from sunlab.backbones.pretrained import load_base
from sunlab.diffusion.grid import grid
from sunlab.draws import starting_noise
from sunlab.errors import ConfigError, DataError
from sunlab.export import read_adapter, save_adapter
from sunlab.export.shapes import describe_base
from sunlab.pipelines.draw import Request, draw, with_adapter
from sunlab.solvers import SOLVERS, Sampler
from sunlab.solvers.ddim import DDIM

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
PROMPTS, NEGATIVES, SEEDS, STEPS = ["a pizza", "a large tiger"], ["green", ""], [3, 4], 2
LORA = {"rank": 2, "targets": ["to_q", "attn2.to_k", "proj_out"]}
ON = {"sun": {}, "sun_w": {}, "sun_lora": LORA, "lora": LORA, "nag": {"inner": "sun"}}
CASES = [
    *((name, "Sigma") for name in ON),
    *((name, "flow") for name in ("sun", "sun_lora")),
    *(pytest.param(name, "Alpha", marks=pytest.mark.slow) for name in ("sun", "lora")),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Kind of base, name of an adapter -> the base's folder, the base, the attached adapter and its file."""
    root, known = tmp_path_factory.mktemp("pixart"), {}

    def of(name, kind="Sigma"):
        if (name, kind) not in known:
            folder = root / kind if (root / kind).exists() else tiny_pixart(root / kind, kind)
            base, adapter = load_base(folder).freeze(), ADAPTERS.build({"name": name, **ON[name]})
            moved(adapter, base.backbone)
            file = file_for(base.backbone, root / f"{name}-{kind}.safetensors", adapter, steps=STEPS)
            known[name, kind] = folder, base, adapter, file
        return known[name, kind]

    return of


def latents(pipe, negative=NEGATIVES, prompts=PROMPTS, **more):
    channels, *size = pipe.transformer.config.in_channels, *(pipe.transformer.config.sample_size,) * 2
    noise = starting_noise(SEEDS, (channels, *size))
    given = {"latents": noise, "output_type": "latent", "use_resolution_binning": False, "clean_caption": False, **more}
    return pipe(prompts, **({} if negative == "" else {"negative_prompt": negative}), **given).images


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_draws_what_sunlab_draws_in_one_pass_a_step(name, kind, made):
    folder, base, adapter, file = made(name, kind)
    path = base.backbone.path
    with torch.no_grad():
        sampler = Sampler(DDIM(path), grid(STEPS, path=path))
        wanted = draw(base, sampler, with_adapter(base, adapter), Request(PROMPTS, NEGATIVES, SEEDS), w=3.0).latents
    pipe = open_pipeline(folder)
    own, processors = pipe.scheduler, dict(pipe.transformer.attn_processors)
    before, passes = latents(pipe, guidance_scale=3.0, num_inference_steps=STEPS), []
    sunlab.plug(pipe, file)
    count = pipe.transformer.register_forward_hook(lambda module, args, out: passes.append(len(out[0])))
    negative = {"negative": NEGATIVES} if adapter.uses_negative else {"negative": ""}
    scale = {"guidance_scale": 3.0} if adapter.steered else {}
    found = latents(pipe, **negative, **scale)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert passes == [2] * STEPS, "one pass a step, of the prompts alone"
    count.remove()
    if adapter.uses_negative:
        assert not torch.allclose(latents(pipe, ["a red apple", "a pizza"], **scale), found, atol=1e-4)
    sunlab.unplug(pipe)
    assert pipe.scheduler is own and not pipe.transformer._forward_pre_hooks
    assert pipe.transformer.attn_processors == processors
    assert torch.equal(latents(pipe, guidance_scale=3.0, num_inference_steps=STEPS), before), "restored to the bit"


@pytest.mark.parametrize("solver", ["dpmpp_2m", "lcm", "tcd"])
def test_other_solvers_on_rectified_flow(solver, made, tmp_path):
    """The pipeline's loop draws what our solver draws, its noise included, from one generation to the next."""
    folder, base, adapter, file = made("sun", "flow")
    path, header = base.backbone.path, read_adapter(file).header
    times = grid(4, path=path)
    said = {**header, "solver": solver, "steps": 4, "times": times.tolist()}
    other = save_adapter(tmp_path / "x.safetensors", adapter, said, dtype=torch.float32)
    sampler = Sampler(SOLVERS.get(solver).factory(path), times)
    with torch.no_grad():
        wanted = draw(base, sampler, with_adapter(base, adapter), Request(PROMPTS, NEGATIVES, SEEDS), w=3.0).latents
    pipe = sunlab.plug(open_pipeline(folder), other)
    for _ in range(2):
        torch.testing.assert_close(latents(pipe), wanted, atol=1e-4, rtol=1e-4)
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    with pytest.raises(ConfigError, match="replaced since plugging: FlowMatchEulerDiscreteScheduler does not sample"):
        latents(pipe)


def test_embeddings_as_given_keep_their_masks(made):
    folder, _, _, file = made("sun")
    pipe = sunlab.plug(open_pipeline(folder), file)
    wanted = latents(pipe)
    tokens, mask, negative, negative_mask = pipe.encode_prompt(PROMPTS, True, negative_prompt=NEGATIVES)
    negative = negative.masked_fill(~negative_mask.bool()[..., None], 5.0)  # padding
    given = {"prompt_embeds": tokens, "prompt_attention_mask": mask, "negative_prompt_embeds": negative}
    found = latents(pipe, None, None, negative_prompt_attention_mask=negative_mask, **given)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_another_pipeline_over_the_network_draws_as_the_base_in_a_callback(made):
    folder, _, _, file = made("sun")
    pipe = open_pipeline(folder)
    other = diffusers.PixArtSigmaPipeline(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)})
    other.set_progress_bar_config(disable=True)
    plain = latents(other, num_inference_steps=1)
    sunlab.plug(pipe, file)
    wanted, seen = latents(pipe), []
    found = latents(pipe, callback=lambda *args: seen.append(latents(other, num_inference_steps=1)), callback_steps=1)
    assert torch.equal(found, wanted) and len(seen) == STEPS
    assert all(torch.equal(each, plain) for each in seen)


def test_threads_draw_their_own_negative_prompts(made):
    folder, _, _, file = made("sun")
    pipe = sunlab.plug(open_pipeline(folder), file)
    negatives = [["green", ""], ["a pizza", "red"]]
    wanted = [latents(pipe, negative) for negative in negatives]
    copies = [copy.copy(pipe) for _ in negatives]
    for each in copies:
        each.scheduler = copy.deepcopy(pipe.scheduler)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(latents, copies, negatives))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_what_is_refused(made, tmp_path):
    folder, base, adapter, file = made("sun")
    pipe = open_pipeline(folder)
    with pytest.raises(ConfigError, match="several passes"):
        sunlab.plug(diffusers.PixArtSigmaPAGPipeline(**pipe.components, pag_applied_layers="blocks.1"), file)
    stated = {**describe_base(base.backbone), "family": "sana_600m", "cross_attention": "0" * 64}
    other = save_adapter(tmp_path / "x.safetensors", adapter, {"solver": "ddim", "base": stated}, dtype=torch.float32)
    with pytest.raises(DataError, match="made for a base of the family 'sana_600m', this network is of"):
        sunlab.plug(pipe, other)
    sunlab.plug(pipe, file)
    with pytest.raises(ConfigError, match="is plugged into this pipeline"):
        sunlab.plug(pipe, file)
