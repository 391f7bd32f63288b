"""SD 1.x, 2.x and XL from a folder: our sampling is diffusers' own, prompts and added conditions included."""

import json

import diffusers
import pytest
import torch

from sunlab.backbones.pretrained import load_base
from sunlab.diffusion.grid import grid
from sunlab.draws import starting_noise
from sunlab.errors import ConfigError
from sunlab.pipelines.draw import Request, draw, with_guidance
from sunlab.solvers import Sampler
from sunlab.solvers.ddim import DDIM

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers

PROMPTS, SEEDS = ["a pizza", "a large tiger"], [3, 4]
SIZES = {  # parameters of the published models
    "sd15": (859_520_964, 83_653_863, 123_060_480),
    "sd21": (865_910_724, 83_653_863, 340_387_840),
    "sd21_base": (865_910_724, 83_653_863, 340_387_840),
    "sdxl": (2_567_463_684, 83_653_863, 123_060_480 + 694_659_840),
}


def pipeline(folder):
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    more = {"add_watermarker": False} if "XL" in kind else {}
    pipe = getattr(diffusers, kind).from_pretrained(folder, local_files_only=True, **more)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("zero", [False, True])
def test_guided_sampling_is_diffusers_own(family, zero, folders):
    kind = "v_prediction" if zero else None
    base = load_base(folders[family], zero_terminal_snr=zero, prediction_type=kind).freeze()
    pipe = pipeline(folders[family])
    over = {"rescale_betas_zero_snr": zero, **({} if kind is None else {"prediction_type": kind})}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, **over)
    path = base.backbone.path
    sampling = Sampler(DDIM(path), grid(4))
    ours = draw(base, sampling, with_guidance(base), Request(PROMPTS, ["", ""], SEEDS), w=3.0)
    noise = starting_noise(SEEDS, (4, 8, 8))
    theirs = pipe(PROMPTS, num_inference_steps=4, guidance_scale=3.0, latents=noise, output_type="latent").images
    torch.testing.assert_close(ours.latents, theirs, atol=2e-4, rtol=1e-3)
    assert base.backbone.prediction_type == pipe.scheduler.config.prediction_type
    assert (base.encode(["a"]).pooled is None) == (family != "sdxl")


def test_what_a_family_predicts(folders):
    kinds = {family: load_base(folder).backbone.prediction_type for family, folder in folders.items()}
    assert kinds == {"sd15": "epsilon", "sd21": "v_prediction", "sd21_base": "epsilon", "sdxl": "epsilon"}


def test_sdxls_time_ids_and_the_empty_prompt(folders):
    given = load_base(folders["sdxl"]).encode(["a pizza", ""])
    assert given.added["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 2
    assert given.tokens.shape == (2, 77, 40) and given.pooled.shape == (2, 24)
    assert not given.tokens[1].any() and not given.pooled[1].any() and given.tokens[0].any()


def test_epsilon_from_pure_noise_is_refused(folders):
    with pytest.raises(ConfigError, match=r"alpha = 0; set model\.prediction_type=v_prediction"):
        load_base(folders["sd15"], zero_terminal_snr=True)


@pytest.mark.parametrize("family", SIZES)
def test_the_shipped_configurations_are_the_published_sizes(family, outlines):
    base = outlines(family)
    parts = base.backbone.unet, base.autoencoder.vae, base.text.model
    assert tuple(sum(p.numel() for p in part.parameters()) for part in parts) == SIZES[family]
    assert all(p.is_meta for part in parts for p in part.parameters())
