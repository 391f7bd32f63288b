"""Our sampling loop against diffusers' own pipeline on the same folder, and what a picture costs."""

import json
import shutil

import pytest
import torch

from sunlab.adapters.lora import LoRA
from sunlab.adapters.sun import SUN
from sunlab.backbones.pretrained import load_base, save_base
from sunlab.diffusion.grid import grid
from sunlab.draws import starting_noise
from sunlab.pipelines.draw import Request, draw, with_adapter, with_guidance
from sunlab.solvers import Sampler
from sunlab.solvers.ddim import DDIM
from sunlab.solvers.dpmpp_2m import DPMpp2M

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers

PROMPTS, NEGATIVES, SEEDS = ["a pizza", "a red background", "a large tiger"], ["", "a pizza", "blue"], [3, 4, 5]
REQUEST = Request(PROMPTS, NEGATIVES, SEEDS)


def sampling(base, kind, steps):
    path = base.backbone.path
    return Sampler(kind(path), grid(steps, path=path))


def diffusers_pipeline(folder):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_guided_sampling_is_diffusers_own(prediction, tiny_base_folder, tmp_path):
    folder = shutil.copytree(tiny_base_folder, tmp_path / "base")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": prediction}))
    base = load_base(folder).freeze()
    ours = draw(base, sampling(base, DPMpp2M, 5), with_guidance(base), REQUEST, w=3.0)
    noise = starting_noise(SEEDS, (4, 8, 8))
    pipeline = diffusers_pipeline(folder)
    wanted = {"prompt": PROMPTS, "negative_prompt": NEGATIVES, "num_inference_steps": 5, "guidance_scale": 3.0}
    latents = pipeline(**wanted, latents=noise, output_type="latent").images
    torch.testing.assert_close(ours.latents, latents, atol=1e-4, rtol=1e-4)
    images = pipeline(**wanted, latents=noise, output_type="pt").images
    torch.testing.assert_close(ours.images, images, atol=1e-4, rtol=1e-4)
    assert float(ours.images.std()) > 1e-3


def test_passes_a_picture(tiny_base):
    base = tiny_base.freeze()
    adapter = SUN()
    adapter.attach(base.backbone)
    calls = []
    base.backbone.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    for kind, steps, bind, nfe in (
        (DPMpp2M, 25, with_guidance(base), 50),
        (DPMpp2M, 2, with_guidance(base), 4),
        (DDIM, 4, with_adapter(base, adapter), 4),
    ):
        calls.clear()
        drawn = draw(base, sampling(base, kind, steps), bind, REQUEST, w=3.0)
        assert drawn.nfe == nfe == sum(calls) / len(REQUEST)
        assert drawn.images.shape == (3, 3, 32, 32) and 0 <= float(drawn.images.min()) <= float(drawn.images.max()) <= 1


@pytest.mark.parametrize("adapter", [SUN(), LoRA(rank=2)], ids=["sun", "lora"])
def test_a_picture_does_not_depend_on_the_others(adapter, tiny_base):
    base = tiny_base.freeze()
    adapter.attach(base.backbone)
    together = draw(base, sampling(base, DDIM, 2), with_adapter(base, adapter), REQUEST, w=3.0)
    apart = draw(base, sampling(base, DDIM, 2), with_adapter(base, adapter), REQUEST, w=3.0, batch=1)
    torch.testing.assert_close(together.latents, apart.latents, atol=1e-5, rtol=1e-5)
    adapter.detach()


@pytest.mark.parametrize("options", [{"attention": "eager"}, {"channels_last": True}])
def test_the_backbones_options_change_speed_alone(options, tiny_base, tiny_base_folder):
    bases = tiny_base.freeze(), load_base(tiny_base_folder, backbone={"name": "sd", **options}).freeze()
    first, second = (draw(b, sampling(b, DPMpp2M, 3), with_guidance(b), REQUEST, w=3.0).latents for b in bases)
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_a_saved_base_is_a_plain_diffusers_folder(tiny_base, tmp_path):
    before = {k: v.clone() for k, v in tiny_base.backbone.unet.state_dict().items()}
    save_base(tiny_base, tmp_path / "saved")
    assert all(torch.equal(v, before[k]) for k, v in tiny_base.backbone.unet.state_dict().items())  # not rounded to fp16
    assert tiny_base.backbone.unet.dtype == tiny_base.text.model.dtype == torch.float32
    pipeline = diffusers_pipeline(tmp_path / "saved")
    images = pipeline("a pizza", num_inference_steps=2, guidance_scale=3.0, output_type="pt").images
    assert images.shape == (1, 3, 32, 32) and bool(images.isfinite().all())
    again = load_base(tmp_path / "saved")
    for part in ("unet",):
        state = getattr(again.backbone, part).state_dict()
        assert all(torch.equal(state[k], v.half().float()) for k, v in before.items())


def test_a_base_saved_with_an_adapter_plugged_in_is_the_base(tiny_base, tmp_path):
    adapter = SUN()
    adapter.attach(tiny_base.backbone)
    save_base(tiny_base, tmp_path / "saved")
    again = load_base(tmp_path / "saved")
    assert again.backbone.unet.state_dict().keys() == tiny_base.backbone.unet.state_dict().keys()
