"""The shipped bases: opened by plain diffusers they draw what our own loop draws, and what the caption asks for."""

import pytest

from sunlab.backbones.locate import locate
from sunlab.backbones.pretrained import load_base
from sunlab.diffusion.grid import grid
from sunlab.draws import starting_noise
from sunlab.lab.classifier import judge, load_classifier
from sunlab.pipelines.draw import Request, draw, with_guidance
from sunlab.solvers import Sampler
from sunlab.solvers.dpmpp_2m import DPMpp2M

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers

PROMPTS = ["a large tiger face on a black background", "a small croissant on a purple background"]
SEEDS = [1, 2]


PIXART = {  # what its pipeline needs for emoji-dit
    "use_resolution_binning": False,
    "clean_caption": False,
    "max_sequence_length": 77,
    "height": 64,
    "width": 64,
}


@pytest.mark.filterwarnings("ignore:Expected types for text_encoder")
@pytest.mark.parametrize("name", ["emoji-sd", "emoji-160", "emoji-dit"])
def test_plain_diffusers_draws_the_same(name):
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(locate(name), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = starting_noise(SEEDS, (4, 16, 16))
    options = PIXART if name == "emoji-dit" else {}
    asked = {"num_inference_steps": 12, "guidance_scale": 3.0, "latents": noise, "output_type": "pt", **options}
    theirs = pipeline(PROMPTS, **asked).images
    base = load_base(name).freeze()
    path = base.backbone.path
    sampling = Sampler(DPMpp2M(path), grid(12, path=path))
    ours = draw(base, sampling, with_guidance(base), Request(PROMPTS, ["", ""], SEEDS), w=3.0).images
    assert float((ours - theirs).abs().max()) < 0.02
    tiger, croissant = judge(load_classifier(), theirs)
    assert (tiger.background, tiger.size, croissant.background, croissant.size) == ("black", "large", "purple", "small")
    assert (tiger.emoji, croissant.emoji) == ("tiger face", "croissant")
