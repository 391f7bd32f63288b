"""Adapters in diffusers' own pipelines, on a tiny random base: `plug`, draw, `unplug`."""

import gc
import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import AttnProcessor
from tiny_pipelines import NEGATIVES, PROMPTS, SEEDS, latents, make, noise, pipeline

import sunlab
from sunlab.adapters.agd import AGD
from sunlab.adapters.lora import LoRA
from sunlab.adapters.nag import NAG
from sunlab.adapters.strength import Strength
from sunlab.adapters.sun import SUN
from sunlab.adapters.sun_lora import SUNLoRA
from sunlab.adapters.sun_w import SUNW
from sunlab.backbones.pretrained import load_base
from sunlab.diffusion.grid import grid
from sunlab.errors import ConfigError, DataError
from sunlab.export import load_adapter
from sunlab.pipelines.attachment import network
from sunlab.pipelines.draw import Request, draw, with_adapter
from sunlab.pipelines.generation import GENERATION, Generation
from sunlab.solvers import SOLVERS, Sampler
from sunlab.solvers.renoise import keys_of, renoise

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers


def state(pipe):
    """What unplugging must leave as it was found."""
    weights = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    return type(pipe), pipe.scheduler, dict(pipe.unet.attn_processors), "_sunlab" in vars(pipe), weights


def equal(a, b):
    return a[:4] == b[:4] and a[4].keys() == b[4].keys() and all(torch.equal(a[4][k], b[4][k]) for k in a[4])


@pytest.mark.parametrize(
    "adapter", [SUN(), LoRA(rank=2), SUNW(), SUNLoRA(rank=2), NAG(inner="sun")], ids=lambda a: a.spec["name"]
)
def test_round_trip_to_the_bit(adapter, pipe, tiny_base_folder, tmp_path):
    path, kind = make(tiny_base_folder, tmp_path / "a.safetensors", adapter), adapter.spec["name"]
    adapter.detach()
    before, drawn = state(pipe), latents(pipe, guidance_scale=3.0)
    assert sunlab.plug(pipe, path) is pipe and isinstance(pipe, StableDiffusionPipeline)
    plugged = latents(pipe, negative=None if kind == "lora" else NEGATIVES)
    assert not torch.allclose(plugged, drawn)
    assert sunlab.unplug(pipe) is pipe
    assert equal(state(pipe), before) and torch.equal(latents(pipe, guidance_scale=3.0), drawn)
    sunlab.plug(pipe, path)
    assert torch.equal(latents(pipe, negative=None if kind == "lora" else NEGATIVES), plugged)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("kind", ["sun", "lora", "agd"])
def test_it_draws_what_our_own_loop_draws(kind, solver, pipe, tiny_base, tiny_base_folder, tmp_path):
    adapter = {"sun": SUN(extra_positive=False), "lora": LoRA(rank=2), "agd": AGD(hidden=4)}[kind]
    path = make(tiny_base_folder, tmp_path / "a.safetensors", adapter, solver=solver)
    base = tiny_base.freeze()
    loaded, _ = load_adapter(path, base.backbone)
    sampling = Sampler(SOLVERS.build(solver, base.backbone.path), grid(4))
    ours = draw(base, sampling, with_adapter(base, loaded), Request(PROMPTS, NEGATIVES, SEEDS), w=3.0)
    sunlab.plug(pipe, path)
    negative = NEGATIVES if kind == "sun" else None
    torch.testing.assert_close(latents(pipe, negative=negative), ours.latents, atol=1e-4, rtol=1e-4)
    images = pipe(PROMPTS, negative_prompt=negative, latents=noise(), output_type="pt").images  # steps from the header
    torch.testing.assert_close(images, ours.images, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_shifted_times_are_those_of_our_own_loop(solver, pipe, tiny_base, tiny_base_folder, tmp_path):
    """shift t / (1 + (shift - 1) t) for shift = 1/2: 1, 3/5, 1/3, 1/7."""
    path = make(
        tiny_base_folder, tmp_path / "a.safetensors", SUN(), solver=solver, shift=0.5, times=[1.0, 0.6, 0.333, 0.143, 0.0]
    )
    base, seen = tiny_base.freeze(), []
    loaded, _ = load_adapter(path, base.backbone)
    sampling = Sampler(SOLVERS.build(solver, base.backbone.path), torch.tensor([1.0, 0.6, 0.333, 0.143, 0.0]).double())
    wanted = draw(base, sampling, with_adapter(base, loaded), Request(PROMPTS, NEGATIVES, SEEDS), w=3.0)
    pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(int(args[1])))
    sunlab.plug(pipe, path)
    torch.testing.assert_close(latents(pipe), wanted.latents, atol=1e-4, rtol=1e-4)
    assert seen == [999, 599, 332, 142]
    seen.clear()
    pipe("a pizza", output_type="latent")  # steps from the header
    pipe("a pizza", output_type="latent", num_inference_steps=2)
    pipe("a pizza", output_type="latent", timesteps=[999, 499])
    assert seen == [999, 599, 332, 142, 999, 332, 999, 499]
    picture = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    sunlab.unplug(pipe)
    sunlab.plug(picture, path)
    seen.clear()
    picture("a pizza", image=torch.zeros(1, 3, 32, 32), strength=0.5, output_type="latent")
    assert seen == [332, 142]


def test_a_pipeline_without_timesteps_draws_no_shifted_adapter(pipe, tiny_base_folder, tmp_path):
    class Plain(StableDiffusionPipeline):
        def __call__(self, prompt):
            return super().__call__(prompt, output_type="latent", num_inference_steps=2)

    path = make(tiny_base_folder, tmp_path / "a.safetensors", SUN(), shift=0.5, times=[1.0, 0.6, 0.333, 0.143, 0.0])
    plain = Plain(**pipe.components, requires_safety_checker=False)
    sunlab.plug(plain, path)
    with pytest.raises(
        ConfigError, match=r"a\.safetensors was trained at times shifted by 0\.5, and Plain takes no timesteps"
    ):
        plain("a pizza")
    sunlab.unplug(plain)


def test_shifted_times_of_lcm(pipe, tiny_base_folder, tmp_path):
    seen, times = [], [1.0, 0.6, 0.333, 0.143, 0.0]
    path = make(tiny_base_folder, tmp_path / "a.safetensors", SUN(), solver="lcm", shift=0.5, times=times)
    pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(int(args[1])))
    latents(sunlab.plug(pipe, path))
    assert seen == [999, 599, 332, 142]


def test_one_pass_a_step_and_the_header_sets_the_steps(pipe, sun_file):
    sizes, times = [], []
    pipe.unet.register_forward_pre_hook(lambda m, args: (sizes.append(len(args[0])), times.append(int(args[1])))[0] and None)
    sunlab.plug(pipe, sun_file)
    image = pipe("a pizza", negative_prompt="red").images[0]
    assert image.size == (32, 32) and sizes == [1] * 4 and times == [999, 749, 499, 249]
    assert type(pipe.scheduler) is DDIMScheduler and pipe.scheduler.config.timestep_spacing == "trailing"


def test_prompts_and_negatives_in_every_form(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    together = latents(pipe)
    for i in range(3):  # a picture does not depend on its batch
        alone = latents(pipe, PROMPTS[i], NEGATIVES[i], latents=noise()[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(latents(pipe, negative=["green"] * 3), together)  # the negative prompt acts
    assert torch.equal(latents(pipe, negative=None), latents(pipe, negative=""))
    assert torch.equal(latents(pipe, negative="blue"), latents(pipe, negative=["blue"] * 3))
    device, n = torch.device("cpu"), 1
    positive, negative = pipe.encode_prompt(PROMPTS, device, n, True, NEGATIVES)
    assert negative is not None
    given = {"num_inference_steps": 4, "output_type": "latent", "latents": noise()}
    embedded = pipe(prompt_embeds=positive, negative_prompt_embeds=negative, **given).images
    assert torch.equal(embedded, together)
    assert torch.equal(pipe(prompt_embeds=positive, negative_prompt="blue", **given).images, latents(pipe, negative="blue"))


@pytest.mark.parametrize("steps", [1, 4])
def test_a_student_of_lcm_gets_its_scheduler(steps, pipe, tiny_base, tiny_base_folder, tmp_path, monkeypatch):
    """Its times are ours, and with the noise that our solver draws between the steps so is the picture."""
    path = make(tiny_base_folder, tmp_path / "a.safetensors", LoRA(rank=2), solver="lcm", steps=steps)
    base = tiny_base.freeze()
    loaded, _ = load_adapter(path, base.backbone)
    solver, times = SOLVERS.build("lcm", base.backbone.path), grid(steps)
    known = keys_of(noise(), solver.seed)
    fresh = [renoise(known, t.expand(3), noise()) for t in times[1:-1]]
    ours = draw(base, Sampler(solver, times), with_adapter(base, loaded), Request(PROMPTS, NEGATIVES, SEEDS), w=3.0)
    sunlab.plug(pipe, path)
    assert type(pipe.scheduler).__name__ == "LCMScheduler"
    pipe.scheduler.set_timesteps(steps)
    assert pipe.scheduler.timesteps.tolist() == base.backbone.path.step(times[:-1]).tolist()
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: fresh.pop(0))
    drawn = latents(pipe, negative=None, num_inference_steps=steps)
    torch.testing.assert_close(drawn, ours.latents, atol=1e-4, rtol=1e-4)
    assert not fresh


def test_several_images_a_prompt(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    start = torch.cat([noise(2), noise(2)])
    both = latents(pipe, PROMPTS[:2], NEGATIVES[:2], num_images_per_prompt=2, latents=start)
    assert len(both) == 4
    for i in range(4):
        alone = latents(pipe, PROMPTS[i // 2], NEGATIVES[i // 2], latents=start[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_guidance_is_never_silently_ignored(pipe, sun_file, lora_file):
    sunlab.plug(pipe, sun_file)
    plain = latents(pipe)
    with pytest.warns(UserWarning, match=r"guidance_scale=7.5 has no effect"):
        assert torch.equal(latents(pipe, guidance_scale=7.5), plain)
    assert torch.equal(latents(pipe, guidance_scale=1.0), plain)
    sunlab.plug(sunlab.unplug(pipe), lora_file)
    with pytest.warns(UserWarning, match="takes no negative prompt"):
        latents(pipe)


def test_an_adapter_that_is_steered(pipe, tiny_base, tiny_base_folder, tmp_path):
    """By the caller's guidance, or the middle of the trained range."""
    path = make(tiny_base_folder, tmp_path / "a.safetensors", SUNW())
    base = tiny_base.freeze()
    loaded, _ = load_adapter(path, base.backbone)
    sampling = Sampler(SOLVERS.build("ddim", base.backbone.path), grid(4))
    request, bind = Request(PROMPTS, NEGATIVES, SEEDS), with_adapter(base, loaded)
    sunlab.plug(pipe, path)
    for given, w in (({}, 3.0), ({"guidance_scale": 2.5}, 2.5)):
        ours = draw(base, sampling, bind, request, w=w).latents
        torch.testing.assert_close(latents(pipe, **given), ours, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(latents(pipe, guidance_scale=2.0), latents(pipe, guidance_scale=4.0), atol=1e-2)
    with pytest.warns(UserWarning, match="outside the trained range 2 to 4"):
        latents(pipe, guidance_scale=9)


def test_image_to_image(tiny_base_folder, sun_file):
    pipe = pipeline(tiny_base_folder, StableDiffusionImg2ImgPipeline)
    before = state(pipe)
    sizes = []
    hook = pipe.unet.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    sunlab.plug(pipe, sun_file)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    drawn = {}
    for negative in ("blue", "green"):
        g = [torch.Generator().manual_seed(i) for i in range(2)]
        given = {"image": image, "strength": 0.75, "negative_prompt": [negative] * 2, "generator": g}
        drawn[negative] = pipe(PROMPTS[:2], num_inference_steps=4, output_type="pt", **given).images
    assert sizes == [2] * 6 and not torch.allclose(drawn["blue"], drawn["green"])
    hook.remove()
    assert equal(state(sunlab.unplug(pipe)), before)


def test_inpainting(tiny_base_folder, sun_file):
    pipe = pipeline(tiny_base_folder, StableDiffusionInpaintPipeline)
    sunlab.plug(pipe, sun_file)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:] = 1
    given = {"image": image, "mask_image": mask, "height": 32, "width": 32, "output_type": "pt"}
    drawn = [
        pipe("a pizza", negative_prompt=n, generator=torch.Generator().manual_seed(1), **given).images
        for n in ("blue", "red")
    ]
    assert drawn[0].shape == (1, 3, 32, 32) and not torch.allclose(*drawn)


def test_a_scheduler_set_later(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    plain = latents(pipe)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ConfigError, match=r"EulerDiscreteScheduler.*pipe.scheduler = diffusers.DDIMScheduler.from_config"):
        latents(pipe)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    with pytest.raises(ConfigError, match=r"timestep_spacing='linspace'.*DPMSolverMultistepScheduler.from_config"):
        latents(pipe)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    assert latents(pipe).shape == plain.shape
    sunlab.unplug(pipe)


def test_what_does_not_fit_leaves_the_pipeline_as_it_was(pipe, sun_file, tiny_base_folder, tmp_path):
    before = state(pipe)
    other = "epsilon" if pipe.scheduler.config.prediction_type == "v_prediction" else "v_prediction"
    for said, message in (
        ({"prediction_type": other}, f"trained on a base of {other}"),
        ({"base": {"family": "sdxl", "cross_attention": "0" * 64}}, "made for a base of the family 'sdxl'"),
        ({"solver": "heun"}, "no scheduler of diffusers'"),
        ({"spacing": "leading"}, "leading spacing"),
    ):
        path = make(tiny_base_folder, tmp_path / "a.safetensors", SUN(), **said)
        with pytest.raises(DataError, match=message):
            sunlab.plug(pipe, path)
        assert equal(state(pipe), before)
    with pytest.raises(ConfigError, match="no adapter of sunlab's"):
        sunlab.unplug(pipe)
    with pytest.raises(ConfigError, match="plugs into diffusers' pipelines of the families"):
        sunlab.plug(object(), sun_file)
    sunlab.plug(pipe, sun_file)
    with pytest.raises(ConfigError, match=r"sun.safetensors is plugged into this pipeline; call sunlab.unplug"):
        sunlab.plug(pipe, sun_file)
    twin = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    with pytest.raises(
        ConfigError, match=r"plugged in through another pipeline that shares it; call sunlab\.unplug on that one"
    ):
        sunlab.plug(twin, sun_file)
    assert equal(state(sunlab.unplug(pipe)), before)


def test_replaced_parts_are_noticed(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    pipe.unet.set_attn_processor(AttnProcessor())
    with pytest.raises(ConfigError, match="were replaced since"):
        latents(pipe)
    theirs = dict(pipe.unet.attn_processors)
    sunlab.unplug(pipe)
    assert pipe.unet.attn_processors == theirs
    sunlab.plug(pipe, sun_file)
    pipe.unet = load_base(pipe.config._name_or_path).backbone.unet
    with pytest.raises(ConfigError, match=r"pipe.unet was replaced"):
        latents(pipe)


def test_nothing_is_left_behind_by_an_error(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    plain = latents(pipe)
    with pytest.raises(ValueError, match="divisible by 8"):
        latents(pipe, height=33, width=32)
    assert GENERATION.get() is None and torch.equal(latents(pipe), plain)


def test_no_growth_over_many_rounds(pipe, sun_file):
    def around():
        sunlab.plug(pipe, sun_file)
        pipe("a pizza", negative_prompt="red", num_inference_steps=1, output_type="latent")
        sunlab.unplug(pipe)

    counts = []
    for i in range(25):
        around()
        if i in (4, 24):
            gc.collect()
            counts.append(len(gc.get_objects()))
    assert counts[1] - counts[0] < 20, counts  # less than an object a round


def test_half_precision_and_slices(pipe, sun_file):
    sunlab.plug(pipe, sun_file)
    plain = latents(pipe)
    pipe.enable_attention_slicing()
    torch.testing.assert_close(latents(pipe), plain, atol=1e-5, rtol=1e-4)
    assert "SlicedAttnProcessor" in {type(p.base).__name__ for p in pipe.unet.attn_processors.values()}
    pipe.disable_attention_slicing()
    for dtype in (torch.bfloat16, torch.float16):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe.to(dtype)
        half = latents(pipe, latents=noise().to(dtype))
        assert half.dtype is dtype and bool(half.isfinite().all())
        assert float((half.float() - plain).square().mean().sqrt() / plain.std()) < 0.1


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_model_cpu_offload(when, where, pipe, tiny_base_folder, sun_file):
    """diffusers' hooks move each model in turn. Handed the CPU as the accelerator they run without one, but for the copy."""
    plain = latents(sunlab.plug(pipeline(tiny_base_folder), sun_file))
    if when == "before":
        pipe.enable_model_cpu_offload(device=where)
    sunlab.plug(pipe, sun_file)
    if when == "after":
        pipe.enable_model_cpu_offload(device=where)
    for _ in range(2):
        torch.testing.assert_close(latents(pipe).cpu(), plain, atol=1e-2, rtol=1e-2)
    assert pipe.unet.device.type == "cpu" and hasattr(pipe.unet, "_hf_hook")
    pipe.remove_all_hooks()
    assert type(sunlab.unplug(pipe)) is StableDiffusionPipeline


def test_nothing_of_a_generation_is_kept(pipe, sun_file, monkeypatch):
    """Keys, values and embeddings go with the generation; the memory of a long run is that of one picture."""
    sunlab.plug(pipe, sun_file)
    kept = []
    begin = Generation.bind

    def bind(self, positive, *more):
        begin(self, positive, *more)
        kept.extend((weakref.ref(positive), weakref.ref(self.state.cache)))

    monkeypatch.setattr(Generation, "bind", bind)
    for _ in range(3):
        latents(pipe)
    gc.collect()
    assert len(kept) == 6 and not any(ref() for ref in kept)


def test_the_prompts_keys_and_values_are_computed_once(pipe, sun_file):
    """In each of the layers: to_k of the base and of both branches runs once a generation, not once a step."""
    sunlab.plug(pipe, sun_file)
    calls = []
    adapter = pipe._sunlab.adapter
    watched = [b.to_k for layer in adapter.layers.values() for b in layer.values()]
    watched += [pipe.unet.get_submodule(path.replace("/", ".")).to_k for path in adapter.layers]
    for module in watched:
        module.register_forward_hook(lambda *_: calls.append(1))
    plain = latents(pipe)
    assert len(calls) == len(watched)
    calls.clear()
    again = latents(pipe)
    assert len(calls) == len(watched) and torch.equal(again, plain)
    changed = latents(pipe, callback_on_step_end=lambda p, i, t, k: {"prompt_embeds": k["prompt_embeds"].mul_(0.5)},
                      callback_on_step_end_tensor_inputs=["prompt_embeds"])  # fmt: skip
    assert not torch.allclose(changed, plain)  # a prompt that is changed in place is another prompt


def test_a_network_of_torch_compile_is_found():
    """Its wrap raises where it is asked for a truth value."""

    class Wrap(torch.nn.Module):
        def __len__(self):
            raise TypeError("does not support len()")

    pipe = SimpleNamespace(unet=Wrap())
    pipe.unet._orig_mod = torch.nn.Identity()
    assert network(pipe) is pipe.unet._orig_mod


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_compiled_network(when, pipe, tiny_base_folder, sun_file):
    """Traced whole, once, whatever the prompts are; no kernels are made here."""
    from torch._dynamo.testing import CompileCounter

    plain = latents(sunlab.plug(pipeline(tiny_base_folder), sun_file))
    traced = CompileCounter()
    if when == "before":
        pipe.unet = torch.compile(pipe.unet, backend=traced)
    sunlab.plug(pipe, sun_file)
    if when == "after":
        pipe.unet = torch.compile(pipe.unet, backend=traced)
    torch.testing.assert_close(latents(pipe), plain, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(latents(pipe, negative="red"), plain) and traced.frame_count == 1
    sunlab.unplug(pipe)


@pytest.mark.parametrize("given", [{"scale": 0.4}, {"scale": 1.7, "lora_scale": 0.5}], ids=str)
def test_it_draws_at_a_strength_what_our_own_loop_draws(given, pipe, tiny_base, sun_lora_file):
    base = tiny_base.freeze()
    loaded, _ = load_adapter(sun_lora_file, base.backbone)
    sampling = Sampler(SOLVERS.build("ddim", base.backbone.path), grid(4))
    bind = with_adapter(base, loaded, Strength(**given))
    ours = draw(base, sampling, bind, Request(PROMPTS, NEGATIVES, SEEDS), w=3.0)
    sunlab.plug(pipe, sun_lora_file, **given)
    torch.testing.assert_close(latents(pipe), ours.latents, atol=1e-4, rtol=1e-4)
    sunlab.plug(sunlab.unplug(pipe), sun_lora_file)
    assert not torch.allclose(latents(pipe), ours.latents, atol=1e-3)


def test_an_adapter_without_training_needs_no_file(pipe, tiny_base):
    before, scheduler = state(pipe), pipe.scheduler
    with pytest.raises(ConfigError, match="over='nag'"):
        sunlab.plug(pipe)
    with pytest.raises(ConfigError, match="scale=2: 'nag' has no offset"):
        sunlab.plug(pipe, over="nag", scale=2.0)
    with pytest.raises(DataError, match="has to be trained"):
        sunlab.plug(pipe, over="sun")
    assert equal(state(pipe), before)
    plain = latents(pipe, guidance_scale=1.0)
    sunlab.plug(pipe, over={"name": "nag", "phi": 3.0})
    assert pipe.scheduler is scheduler and not torch.allclose(latents(pipe), plain)
    assert equal(state(sunlab.unplug(pipe)), before) and torch.equal(latents(pipe, guidance_scale=1.0), plain)


def test_a_strength_without_effect_leaves_the_pipeline_as_it_was(pipe, lora_file):
    before = state(pipe)
    with pytest.raises(ConfigError, match=r"scale=0\.5: 'lora' has no offset"):
        sunlab.plug(pipe, lora_file, scale=0.5)
    assert equal(state(pipe), before)
