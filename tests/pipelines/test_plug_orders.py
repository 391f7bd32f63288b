"""Unusual orders of calls, and ways to hand over prompts: what cannot draw rightly says so, with the remedy."""

from copy import deepcopy

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from safetensors.torch import save_file
from test_plug import equal, state
from test_plug_beside import add, style
from tiny_pipelines import NEGATIVES, PROMPTS, latents, noise, pipeline

import sunlab
from sunlab.errors import ConfigError, DataError
from sunlab.pipelines.generation import GENERATION

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # in diffusers
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`"),  # peft, of several LoRAs
]
GIVEN = {"num_inference_steps": 4, "output_type": "latent"}


def test_plugged_twice_and_unplugged_twice(pipe, sun_file):
    before = state(pipe)
    sunlab.plug(pipe, sun_file)
    drawn = latents(pipe)
    with pytest.raises(ConfigError, match=r"call sunlab\.unplug\(pipe\) first"):
        sunlab.plug(pipe, sun_file)
    assert torch.equal(latents(pipe), drawn)
    sunlab.unplug(pipe)
    with pytest.raises(ConfigError, match="no adapter of sunlab's is plugged"):
        sunlab.unplug(pipe)
    assert equal(state(pipe), before)


@pytest.mark.parametrize("kind", ["sun", "lora", "sun_lora"])
def test_unplugged_after_a_style_lora_was_loaded(kind, tiny_base_folder, request):
    """What is left is the style alone, to the bit; and the base alone once that goes too."""
    learned = style(tiny_base_folder, 0)
    pipe, alone = pipeline(tiny_base_folder), pipeline(tiny_base_folder)
    before, drawn = state(pipe), latents(pipe, guidance_scale=3.0)
    sunlab.plug(pipe, request.getfixturevalue(f"{kind}_file"))
    for each in (pipe, alone):
        add(each, [learned])
    sunlab.unplug(pipe)
    assert torch.equal(latents(pipe, guidance_scale=3.0), latents(alone, guidance_scale=3.0))
    pipe.unload_lora_weights()
    assert equal(state(pipe), before) and torch.equal(latents(pipe, guidance_scale=3.0), drawn)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("lora", "unload_lora_weights"),
        ("lora", "disable_lora"),
        ("sun_lora", "fuse_lora"),
        ("sun_lora", "unfuse_lora"),
    ],
)
def test_what_is_done_to_other_loras_leaves_the_adapters_own(call, kind, pipe, request, tiny_base_folder):
    before = state(pipe)
    file = request.getfixturevalue(f"{kind}_file")
    sunlab.plug(pipe, file)
    drawn = latents(pipe, negative=None)
    add(pipe, [style(tiny_base_folder, 0)])
    assert not torch.allclose(latents(pipe, negative=None), drawn, atol=1e-3)
    if call == "unfuse_lora":
        pipe.fuse_lora()
    getattr(pipe, call)()
    if call in ("unload_lora_weights", "disable_lora"):
        torch.testing.assert_close(latents(pipe, negative=None), drawn, atol=1e-6, rtol=1e-5)
    else:
        assert not torch.allclose(latents(pipe, negative=None), drawn, atol=1e-3)
    if call == "fuse_lora":
        pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(latents(pipe, negative=None), drawn, atol=1e-5, rtol=1e-4)
    sunlab.unplug(pipe)
    if "fuse" not in call:  # which rounds the weights
        assert equal(state(pipe), before)


@pytest.mark.parametrize("kind", ["lora", "sun_lora"])
def test_the_networks_flags_are_as_they_were(kind, pipe, request):
    """Whoever trains it afterwards trains it."""
    for index, parameter in enumerate(pipe.unet.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    flags, said = [p.requires_grad for p in pipe.unet.parameters()], set(vars(pipe.unet))
    sunlab.plug(pipe, request.getfixturevalue(f"{kind}_file"))
    latents(pipe, negative=None)
    assert [p.requires_grad for p in pipe.unet.parameters()] == flags
    sunlab.unplug(pipe)
    assert [p.requires_grad for p in pipe.unet.parameters()] == flags
    assert set(vars(pipe.unet)) - {"extensions"} == said and not pipe.unet._hf_peft_config_loaded


@pytest.mark.parametrize("kind", ["sun", "lora", "sun_lora"])
def test_another_pipeline_over_the_same_network_draws_the_base(kind, pipe, request):
    drawn = latents(pipe, guidance_scale=3.0)
    other = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    other.scheduler = deepcopy(pipe.scheduler)
    sunlab.plug(pipe, request.getfixturevalue(f"{kind}_file"))
    plugged = latents(pipe, negative=None)
    assert torch.equal(latents(other, guidance_scale=3.0), drawn)
    between = []

    def callback(pipe, step, t, tensors):
        between.append(latents(other, guidance_scale=3.0))
        return tensors

    assert torch.equal(latents(pipe, negative=None, callback_on_step_end=callback), plugged)
    assert len(between) == 4 and all(torch.equal(each, drawn) for each in between)


@pytest.mark.parametrize("kind", ["lora", "sun_lora"])
def test_the_scale_of_loras_scales_the_adapters_own_too(kind, pipe, request):
    sunlab.plug(pipe, request.getfixturevalue(f"{kind}_file"))
    drawn = [latents(pipe, negative=None, cross_attention_kwargs={"scale": s}) for s in (1.0, 0.5, 0.0)]
    assert torch.equal(drawn[0], latents(pipe, negative=None))
    assert not torch.allclose(drawn[0], drawn[1]) and not torch.allclose(drawn[1], drawn[2])
    if kind == "lora":  # nothing else is in it
        pipe._sunlab.adapter.detach()
        base = latents(pipe, negative=None)
        pipe._sunlab.adapter.attach(pipe._sunlab.layers)
        torch.testing.assert_close(drawn[2], base, atol=1e-6, rtol=1e-5)


def test_moved_to_bfloat16_before_and_after(tiny_base_folder, sun_file):
    drawn = []
    for when in ("before", "after"):
        pipe = pipeline(tiny_base_folder)
        if when == "before":
            pipe.to(torch.bfloat16)
        sunlab.plug(pipe, sun_file)
        if when == "after":
            pipe.to(torch.bfloat16)
        drawn.append(latents(pipe, latents=noise().bfloat16()))
    assert torch.equal(*drawn) and drawn[0].dtype == torch.bfloat16
    half = pipeline(tiny_base_folder).to(torch.bfloat16)
    given = {"guidance_scale": 3.0, "latents": noise().bfloat16()}
    assert torch.equal(latents(sunlab.unplug(pipe), **given), latents(half, **given))


def test_embeddings_of_the_positive_prompt_alone(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    positive, negative = pipe.encode_prompt(PROMPTS, "cpu", 1, True, NEGATIVES)
    drawn = pipe(prompt_embeds=positive, latents=noise(), **GIVEN).images
    assert torch.equal(drawn, latents(pipe, negative=None))  # the empty negative prompt, as without embeddings
    start = torch.cat([noise(1)] * 2)
    for words in ("blue", ["blue"]):
        one = {"prompt_embeds": positive[:1], "negative_prompt": words, "num_images_per_prompt": 2, "latents": start}
        torch.testing.assert_close(
            pipe(**one, **GIVEN).images, latents(pipe, PROMPTS[:1] * 2, ["blue"] * 2, latents=start), atol=1e-5, rtol=1e-4
        )
    both = {"prompt_embeds": positive, "negative_prompt_embeds": negative, "num_images_per_prompt": 2}
    many = pipe(**both, latents=noise().repeat_interleave(2, 0), **GIVEN).images
    torch.testing.assert_close(many[::2], latents(pipe), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(many[1::2], latents(pipe), atol=1e-5, rtol=1e-4)


def test_what_diffusers_refuses_is_refused_still(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    with pytest.raises(ValueError, match="has batch size 2"):
        latents(pipe, negative=["blue", "red"])
    with pytest.raises(TypeError, match="same type"):
        latents(pipe, "a pizza", ["blue"])
    assert GENERATION.get() is None


def test_rescaled_guidance_is_not_silently_ignored(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    plain = latents(pipe)
    with pytest.warns(UserWarning, match="guidance_rescale has no effect"):
        assert torch.equal(latents(pipe, guidance_rescale=0.7), plain)


def test_saving_writes_the_base_as_it_was_found(pipe, sun_file, lora_file, tmp_path):
    drawn = latents(pipe, guidance_scale=3.0)
    sunlab.plug(pipe, sun_file)
    plugged = latents(pipe)
    pipe.save_pretrained(tmp_path / "saved")
    assert torch.equal(latents(pipe), plugged)
    again = pipeline(tmp_path / "saved")
    assert type(again) is StableDiffusionPipeline and torch.equal(latents(again, guidance_scale=3.0), drawn)
    sunlab.plug(sunlab.unplug(pipe), lora_file)
    pipe.save_pretrained(tmp_path / "lora")
    assert torch.equal(latents(pipeline(tmp_path / "lora"), guidance_scale=3.0), drawn)


def test_a_pipeline_made_of_a_plugged_one(pipe, sun_file):
    """`from_pipe` shares the U-Net; it is not plugged itself, and says so when it is to be."""
    sunlab.plug(pipe, sun_file)
    other = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    with pytest.raises(ConfigError, match=r"through another pipeline that shares it.*from_pipe"):
        sunlab.plug(other, sun_file)
    sunlab.unplug(pipe)
    sunlab.plug(other, sun_file)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    drawn = [
        other("a pizza", image=image, negative_prompt=n, output_type="pt", generator=torch.Generator().manual_seed(0)).images
        for n in ("blue", "red")
    ]
    assert not torch.allclose(*drawn)
    with pytest.raises(ConfigError, match="through another pipeline"):
        sunlab.plug(pipe, sun_file)


def test_a_damaged_file_leaves_the_pipeline_as_it_was(pipe, sun_file, tmp_path):
    before, data = state(pipe), bytearray(sun_file.read_bytes())
    for place in (3, 100, len(data) // 2, len(data) - 1):
        damaged = tmp_path / f"{place}.safetensors"
        damaged.write_bytes(bytes([*data[:place], data[place] ^ 1, *data[place + 1 :]]))
        with pytest.raises(DataError, match=damaged.name):
            sunlab.plug(pipe, damaged)
    with pytest.raises(DataError, match="no such adapter file"):
        sunlab.plug(pipe, tmp_path / "none.safetensors")
    disguised, lora = tmp_path / "pickle.safetensors", tmp_path / "lcm_lora.safetensors"
    torch.save({"a": torch.zeros(1)}, disguised)
    with pytest.raises(DataError, match=r"pickle\.safetensors: a pickle, whatever its name"):
        sunlab.plug(pipe, disguised)
    names = (
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
        "unet.mid_block.attentions.0.proj_in.lora_A.weight",
    )
    for name in names:
        save_file({name: torch.zeros(2, 2)}, lora)
        with pytest.raises(DataError, match=r"lcm_lora\.safetensors: another program's LoRA.*pipe\.load_lora_weights"):
            sunlab.plug(pipe, lora)
    assert equal(state(pipe), before)
