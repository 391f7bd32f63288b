"""Every kind of pipeline that an adapter plugs into, SD's and SDXL's, and the kinds that it refuses."""

import diffusers
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPAGPipeline, StableDiffusionPipeline
from test_plug import equal, state
from tiny_pipelines import make_for, pipeline, pipeline_xl

import sunlab
from sunlab.adapters.sun import SUN
from sunlab.errors import ConfigError
from sunlab.pipelines.generation import GENERATION

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
KINDS = ("", "Img2Img", "Inpaint", "ControlNet", "ControlNetImg2Img", "ControlNetInpaint")
PROMPTS, NEGATIVES = ["a pizza", "a large tiger"], ["blue", ""]


def of_kind(kind, folder, family):
    """A pipeline of this kind around the tiny base, with a random ControlNet where it takes one."""
    base, start = (pipeline_xl(folder), "StableDiffusionXL") if family == "xl" else (pipeline(folder), "StableDiffusion")
    parts = {}
    if "ControlNet" in kind:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts["controlnet"] = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(4, 8, 16))
            for p in parts["controlnet"].parameters():
                p.data.add_(0.1 * torch.randn_like(p))
    pipe = getattr(diffusers, f"{start}{kind}Pipeline").from_pipe(base, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, kind, rows, negatives, **more):
    """The latents of these rows (B, 4, 8, 8), each from its own seed, source, mask and control."""
    g = torch.Generator().manual_seed(0)
    image, mask = torch.rand(2, 3, 32, 32, generator=g)[rows], torch.ones(2, 1, 32, 32)[rows]
    mask[..., :16] = 0
    given = {"generator": [torch.Generator().manual_seed(i) for i in rows], "output_type": "latent"}
    if "ControlNet" in kind:
        given["image" if kind == "ControlNet" else "control_image"] = image
    if "2Img" in kind or "Inpaint" in kind:
        given |= {"image": image, "strength": 0.75}
    if "Inpaint" in kind:
        given |= {"mask_image": mask}
    if "2Img" not in kind:
        given |= {"height": 32, "width": 32}
    return pipe([PROMPTS[i] for i in rows], negative_prompt=[negatives[i] for i in rows], **given, **more).images


@pytest.mark.parametrize("family", ["sd", "xl"])
@pytest.mark.parametrize("kind", KINDS)
def test_plugged_drawn_and_unplugged(kind, family, tiny_base_folder, tmp_path):
    pipe = of_kind(kind, tiny_base_folder, family)
    adapter = SUN()
    file = make_for(pipe.unet, tmp_path / "a.safetensors", adapter, prediction_type=pipe.scheduler.config.prediction_type)
    adapter.detach()
    before, drawn = state(pipe), draw(pipe, kind, [0, 1], NEGATIVES, guidance_scale=3.0, num_inference_steps=4)
    sunlab.plug(pipe, file)
    sizes, seen = [], []
    hooks = [pipe.unet.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))]
    if "ControlNet" in kind:
        keep = lambda m, args, told: seen.append(told["encoder_hidden_states"])  # noqa: E731
        hooks.append(pipe.controlnet.register_forward_pre_hook(keep, with_kwargs=True))
    together = draw(pipe, kind, [0, 1], NEGATIVES)
    for hook in hooks:
        hook.remove()
    assert set(sizes) == {2} and 3 <= len(sizes) <= 4  # one pass a step, not two
    positive = pipe.encode_prompt(
        PROMPTS, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert all(torch.equal(tokens, positive[0]) for tokens in seen)
    for i in range(2):
        torch.testing.assert_close(draw(pipe, kind, [i], NEGATIVES), together[i : i + 1], atol=3e-4, rtol=1e-4)
    other = draw(pipe, kind, [0, 1], ["red", ""])
    assert not torch.equal(other[0], together[0]) and torch.equal(other[1], together[1])
    assert equal(state(sunlab.unplug(pipe)), before)
    assert torch.equal(draw(pipe, kind, [0, 1], NEGATIVES, guidance_scale=3.0, num_inference_steps=4), drawn)


def test_a_pipeline_that_makes_passes_of_its_own_is_refused(pipe, sun_file):
    perturbed = StableDiffusionPAGPipeline.from_pipe(pipe)
    with pytest.raises(ConfigError, match=r"StableDiffusionPAGPipeline makes several passes.*from_pipe"):
        sunlab.plug(perturbed, sun_file)


def test_a_pipeline_that_leaves_the_adapter_out_does_not_do_so_silently(tiny_base_folder, sun_file):
    class Own(StableDiffusionPipeline):
        def __call__(self, prompt, negative_prompt=None, num_inference_steps=4):
            tokens, _ = self.encode_prompt(prompt, "cpu", 1, False, negative_prompt)
            return self.unet(torch.zeros(1, 4, 8, 8), 1, tokens).sample

    pipe = sunlab.plug(pipeline(tiny_base_folder, Own), sun_file)
    with pytest.raises(ConfigError, match="Own hands its network no cross_attention_kwargs"):
        pipe("a pizza", negative_prompt="red")
    assert GENERATION.get() is None
