"""Wan: prompts, guided sampling and videos beside diffusers' own pipeline, on a tiny base with random weights."""

import json

import diffusers
import pytest
import torch
from tiny_bases import open_pipeline

from sunlab.backbones.files import describe_files
from sunlab.backbones.network import FAMILIES
from sunlab.backbones.pretrained import load_base, outline_base
from sunlab.backbones.wan.transformer import Wan
from sunlab.draws import starting_noise
from sunlab.errors import ConfigError
from sunlab.pipelines.draw import Request, draw, with_guidance
from sunlab.solvers import Sampler
from sunlab.solvers.ddim import DDIM

PROMPTS, NEGATIVES, SEEDS = ["a pizza &amp; an  apple ", "a large tiger"], ["red apple", ""], [3, 4]
SIZE = {"frames": 5, "height": 32, "width": 16}
SHAPE = (4, 2, 4, 2)


@pytest.fixture(scope="module")
def folder(tiny_family):
    return tiny_family("wan")


@pytest.fixture(scope="module")
def base(folder):
    return load_base(folder, backbone={"name": "wan", **SIZE}).freeze()


@pytest.fixture(scope="module")
def pipe(folder):
    return open_pipeline(folder)


def test_prompts_are_encoded_as_in_diffusers_pipeline(base, pipe):
    wanted = pipe.encode_prompt(PROMPTS, NEGATIVES, max_sequence_length=512)
    for found, tokens in zip((base.encode(PROMPTS), base.encode(NEGATIVES, negative=True)), wanted, strict=True):
        torch.testing.assert_close(found.tokens, tokens, atol=1e-5, rtol=1e-4)
        assert found.mask is None and not found.tokens[~found.words].any()
    assert base.encode([""]).words.sum() == 1, "the end token alone"


def test_guided_sampling_is_diffusers_own(base, pipe):
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert base.backbone.prediction_type == "flow" and base.backbone.path.shift == 3.0
    given = {"num_inference_steps": 3, "height": 32, "width": 16, "num_frames": 5, "guidance_scale": 3.0}
    for output in ("latent", "pt"):
        noise = starting_noise(SEEDS, SHAPE)
        theirs = pipe(PROMPTS, negative_prompt=NEGATIVES, latents=noise, output_type=output, **given).frames
        if output == "latent":
            latents = theirs
    times = pipe.scheduler.sigmas.double()
    sampling = Sampler(DDIM(base.backbone.path), times)
    ours = draw(base, sampling, with_guidance(base), Request(PROMPTS, NEGATIVES, SEEDS), w=3.0)
    torch.testing.assert_close(ours.latents, latents, atol=1e-4, rtol=1e-4)
    frames = ours.images.unflatten(3, (5, 16)).permute(0, 3, 1, 2, 4)  # beside each other in a picture
    torch.testing.assert_close(frames, theirs, atol=1e-4, rtol=1e-4)


def test_latents_are_those_of_the_autoencoder(base, pipe):
    frames = torch.randint(0, 256, (2, 3, 5, 32, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = base.autoencoder.encode(torch.cat(frames.unbind(2), dim=3))
    config = pipe.vae.config
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
    with torch.no_grad():
        wanted = (pipe.vae.encode(frames.float() / 127.5 - 1).latent_dist.mean - mean) / std
    torch.testing.assert_close(found, wanted)
    assert found.shape == (2, *base.backbone.sample_shape) == (2, *SHAPE)


def test_the_projection_of_the_prompt_acts(base):
    """Tokens as the layers see them: GELU between two linear layers."""
    given, text = base.encode(PROMPTS), base.backbone.transformer.condition_embedder.text_embedder
    hidden = torch.nn.functional.gelu(given.tokens @ text.linear_1.weight.mT + text.linear_1.bias, approximate="tanh")
    wanted = hidden @ text.linear_2.weight.mT + text.linear_2.bias
    torch.testing.assert_close(base.backbone.context(given).tokens, wanted, atol=1e-5, rtol=1e-4)


def test_the_shipped_configuration_is_of_the_published_size():
    base = outline_base(FAMILIES / "wan_1300m")
    assert [sum(p.numel() for p in part.parameters()) for part in base.parts[:2]] == [1_418_996_800, 5_680_910_336]
    assert base.backbone.sample_shape == (16, 21, 60, 104) and base.autoencoder.factor == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "it has a transformer_2"),
        ({"expand_timesteps": True}, "expand_timesteps"),
    ],
)
def test_wan_22_is_refused(change, message, folder, tmp_path):
    index = {**json.loads((folder / "model_index.json").read_text()), **change}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert message in Wan.mismatch(describe_files(tmp_path))


@pytest.mark.parametrize(("key", "value"), [("frames", 4), ("height", 20), ("width", 0)])
def test_a_size_that_does_not_fit(key, value, folder):
    with pytest.raises(ConfigError, match=rf"model\.backbone\.{key}: expected .* multiple of .*, got {value}"):
        outline_base(folder, backbone={"name": "wan", **SIZE, key: value})
