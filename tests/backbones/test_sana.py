"""SANA: prompts, guided sampling and the layers beside diffusers' own pipeline, on a tiny base with random weights."""

import inspect
import json

import diffusers
import pytest
import torch
from tiny_bases import open_pipeline

from sunlab.backbones.files import describe_files
from sunlab.backbones.network import FAMILIES
from sunlab.backbones.pretrained import load_base, outline_base
from sunlab.backbones.sana.family import Sana
from sunlab.backbones.sana.text import INSTRUCTION
from sunlab.diffusion.path import RectifiedFlow
from sunlab.draws import starting_noise
from sunlab.pipelines.draw import Request, draw, with_guidance
from sunlab.solvers import Sampler
from sunlab.solvers.ddim import DDIM
from sunlab.solvers.dpmpp_2m import DPMpp2M

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
PROMPTS, NEGATIVES, SEEDS = ["A pizza ", "a very large tiger"], ["blurred, green", ""], [3, 4]


@pytest.fixture(scope="module")
def folder(tiny_family):
    return tiny_family("sana")


@pytest.fixture(scope="module")
def base(folder):
    return load_base(folder).freeze()


@pytest.fixture(scope="module")
def pipe(folder):
    return open_pipeline(folder)


def instruction():
    lines = inspect.signature(diffusers.SanaPipeline.__call__).parameters["complex_human_instruction"].default
    assert "\n".join(lines) == INSTRUCTION
    return lines


def test_prompts_are_encoded_as_in_diffusers_pipeline(base, pipe):
    wanted = pipe.encode_prompt(PROMPTS, True, negative_prompt=NEGATIVES, complex_human_instruction=instruction())
    positive, negative = base.encode(PROMPTS), base.encode(NEGATIVES, negative=True)
    for found, (tokens, mask) in zip((positive, negative), (wanted[:2], wanted[2:]), strict=True):
        torch.testing.assert_close(found.tokens, tokens, atol=1e-5, rtol=1e-4)
        assert torch.equal(found.mask, mask.bool())
    assert negative.mask[1].sum() == 1, "the first token alone"
    assert not torch.allclose(base.encode(NEGATIVES).tokens, negative.tokens), "prompts follow the instruction"


def test_long_prompts_are_cut_with_a_warning(base, pipe):
    long = "tiger " * 200
    with pytest.warns(UserWarning, match="is cut to 299 tokens"):
        found = base.encode([long])
    wanted = pipe.encode_prompt([long], False, complex_human_instruction=instruction())
    torch.testing.assert_close(found.tokens, wanted[0], atol=1e-5, rtol=1e-4)
    assert bool(found.mask.all())


class WholeSteps(RectifiedFlow):
    """diffusers' DPM-Solver++ rounds the network's times down to whole steps."""

    def step(self, t):
        return super().step(t).floor()


@pytest.mark.parametrize("scheduler", ["FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_guided_sampling_is_diffusers_own(scheduler, folder, pipe):
    base = load_base(folder).freeze()
    assert base.backbone.prediction_type == "flow" and base.backbone.path.shift == 3.0
    if scheduler.startswith("FlowMatch"):
        pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        solver = DDIM(base.backbone.path)
    else:
        pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
        base.backbone.path = WholeSteps(shift=3.0)
        solver = DPMpp2M(base.backbone.path)
    noise = starting_noise(SEEDS, (4, 8, 8))
    given = {"num_inference_steps": 4, "latents": noise, "use_resolution_binning": False, "height": 32, "width": 32}
    theirs = pipe(PROMPTS, negative_prompt=NEGATIVES, guidance_scale=3.0, output_type="latent", **given).images
    pixels = pipe(PROMPTS, negative_prompt=NEGATIVES, guidance_scale=3.0, output_type="pt", **given).images
    times = pipe.scheduler.sigmas.double()
    ours = draw(base, Sampler(solver, times), with_guidance(base), Request(PROMPTS, NEGATIVES, SEEDS), w=3.0)
    torch.testing.assert_close(ours.latents, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.images, pixels, atol=1e-4, rtol=1e-4)


def test_latents_are_those_of_the_autoencoder(base, pipe):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = base.autoencoder.encode(images)
    with torch.no_grad():
        wanted = pipe.vae.encode(images.float() / 127.5 - 1).latent * pipe.vae.config.scaling_factor
    torch.testing.assert_close(found, wanted)
    assert found.shape == (2, *base.backbone.sample_shape) and base.autoencoder.factor == 4


def test_the_projection_of_the_prompt_acts(base):
    """Tokens as the layers see them: GELU between two linear layers, then RMS over channels."""
    given, t = base.encode(PROMPTS), base.backbone.transformer
    first, second = t.caption_projection.linear_1, t.caption_projection.linear_2
    hidden = torch.nn.functional.gelu(given.tokens @ first.weight.mT + first.bias, approximate="tanh")
    hidden = hidden @ second.weight.mT + second.bias
    wanted = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-5).sqrt() * t.caption_norm.weight
    torch.testing.assert_close(base.backbone.context(given).tokens, wanted, atol=1e-5, rtol=1e-4)


def test_sprint_is_refused(folder, tmp_path):
    index = {**json.loads((folder / "model_index.json").read_text()), "_class_name": "SanaSprintPipeline"}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert "distilled already" in Sana.mismatch(describe_files(tmp_path))


@pytest.mark.parametrize(("family", "transformer"), [("sana_600m", 591_747_872), ("sana_1600m", 1_604_462_752)])
def test_the_shipped_configurations_are_the_published_sizes(family, transformer):
    base = outline_base(FAMILIES / family)
    assert all(p.is_meta for part in base.parts for p in part.parameters())
    count = [sum(p.numel() for p in part.parameters()) for part in base.parts]
    assert count[0] == transformer, count
    assert count[1] == 2_614_341_888, count
    assert base.backbone.sample_shape == (32, 32, 32) and base.autoencoder.factor == 32
