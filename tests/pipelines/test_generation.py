"""The state of a generation belongs to its call: threads, callbacks, batch sizes, and messages that name the cause."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from tiny_pipelines import NEGATIVES, PROMPTS, latents, noise, pipeline

import sunlab
from sunlab.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
EMBEDS = {"callback_on_step_end_tensor_inputs": ["prompt_embeds", "negative_prompt_embeds"]}


def test_copies_draw_in_threads_as_each_alone(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    asked = ["blue", ""]
    alone = [latents(pipe, negative=[n] * 3) for n in asked]

    def serve(i):
        mine = copy.copy(pipe)
        mine.scheduler = copy.deepcopy(pipe.scheduler)
        return [torch.equal(latents(mine, negative=[asked[i]] * 3), alone[i]) for _ in range(4)]

    with ThreadPoolExecutor(2) as pool:
        assert all(all(same) for same in pool.map(serve, (0, 1)))


def test_one_pipeline_or_scheduler_draws_one_generation_at_a_time(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    for other in (pipe, copy.copy(pipe)):
        with pytest.raises(ConfigError, match=r"drawing in another thread or callback.*copy\.deepcopy\(pipe\.scheduler\)"):
            latents(pipe, callback_on_step_end=lambda *_, other=other: {"latents": latents(other)})
    assert latents(pipe).shape == (3, 4, 8, 8)


def test_encoding_in_a_callback_has_no_side_effect(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    ready = pipe.encode_prompt("a pizza", "cpu", 1, False)[0].repeat(3, 1, 1)

    def run(inside):
        def callback(pipe, step, t, tensors):
            now = pipe.encode_prompt(["a pizza"] * 3, "cpu", 1, False)[0] if inside else ready
            return {"prompt_embeds": now}

        return latents(pipe, callback_on_step_end=callback, **EMBEDS)

    torch.testing.assert_close(run(True), run(False), atol=1e-6, rtol=1e-5)


def test_a_callback_sets_the_negative_prompt_and_the_batch(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    plain = latents(pipe)

    def keep_first(pipe, step, t, tensors):
        return {name: tensor[:1] for name, tensor in tensors.items()} if step == 1 else {}

    inputs = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds", "negative_prompt_embeds"]}
    first = latents(pipe, callback_on_step_end=keep_first, **inputs)
    torch.testing.assert_close(first, plain[:1], atol=1e-5, rtol=1e-4)
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        with pytest.raises(ConfigError, match=r"3 rows.* 2|2 rows.* 3"):
            latents(pipe, callback_on_step_end=lambda p, i, t, kept, name=name: {name: kept[name][1:]}, **EMBEDS)


def test_no_step_is_said_as_such(tiny_base_folder, sun_file):
    pipe = sunlab.plug(pipeline(tiny_base_folder, StableDiffusionImg2ImgPipeline), sun_file)
    with pytest.raises(ConfigError, match=r"4 steps at strength=0\.2 leave none; raise strength to at least 0\.25"):
        pipe("a pizza", image=torch.rand(1, 3, 32, 32), strength=0.2)


def test_missing_negative_embeddings_are_said_as_such(tiny_base_folder, sun_file, lora_file):
    positive, negative = pipeline(tiny_base_folder).encode_prompt(PROMPTS, "cpu", 1, True, NEGATIVES)
    bare = pipeline(tiny_base_folder, text_encoder=None, tokenizer=None)
    given = {"prompt": None, "negative": None, "prompt_embeds": positive, "latents": noise()}
    sunlab.plug(bare, sun_file)
    with pytest.raises(ConfigError, match="negative_prompt_embeds is missing"):
        latents(bare, **given)
    assert latents(bare, negative_prompt_embeds=negative, **given).isfinite().all()
    sunlab.plug(sunlab.unplug(bare), lora_file)
    assert latents(bare, **given).isfinite().all()  # it takes none


def test_compat_is_the_authors_arithmetic(pipe, sun_file, lora_file):
    sunlab.plug(pipe, sun_file, compat=True)
    assert pipe._sunlab.adapter.spec["compat"]
    together, alone = latents(pipe), latents(pipe, PROMPTS[0], NEGATIVES[0], latents=noise(1))
    assert not torch.allclose(together[:1], alone, atol=1e-4)  # a picture depends on its batch
    with pytest.raises(ConfigError, match="compat=True"):
        sunlab.plug(sunlab.unplug(pipe), lora_file, compat=True)
