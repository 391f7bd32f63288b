"""An adapter plugged in beside others: style LoRAs, a ControlNet, an IP-Adapter; and LoRA students in foreign layouts."""

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.models.attention_processor import Attention
from peft import LoraConfig, get_peft_model_state_dict
from tiny_pipelines import PROMPTS, latents, make, pipeline

import sunlab
from sunlab.adapters.lora import LoRA
from sunlab.adapters.state import PassState
from sunlab.adapters.sun import SUN
from sunlab.adapters.sun_w import SUNW
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.errors import ConfigError
from sunlab.export.convert import export_adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # in diffusers
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`"),  # peft, of several LoRAs
]


def style(folder, seed):
    """The state dict of a LoRA as `load_lora_weights` takes it."""
    unet = load_base(folder).backbone.unet
    targets = ["to_q", "to_k", "to_v", "to_out.0", "conv1"]
    unet.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False), adapter_name="style")
    g = torch.Generator().manual_seed(seed)
    state = get_peft_model_state_dict(unet, adapter_name="style")
    return {f"unet.{k}": 0.3 * torch.randn(v.shape, generator=g) for k, v in state.items()}


@pytest.fixture(scope="module")
def styles(tiny_base_folder):
    return [style(tiny_base_folder, seed) for seed in (0, 1)]


def add(pipe, styles, *, fuse=False):
    for i, state in enumerate(styles):
        pipe.load_lora_weights(dict(state), adapter_name=f"style{i}")
    pipe.set_adapters([f"style{i}" for i in range(len(styles))], [0.8, 0.6][: len(styles)])
    if fuse:
        pipe.fuse_lora()


def test_style_loras_before_and_after_fused_and_not(tiny_base_folder, styles, sun_file):
    plain = pipeline(tiny_base_folder)
    sunlab.plug(plain, sun_file)
    drawn = {"plain": latents(plain)}
    for when in ("before", "after", "before, fused", "after, fused"):
        pipe = pipeline(tiny_base_folder)
        if "before" in when:
            add(pipe, styles, fuse="fused" in when)
        sunlab.plug(pipe, sun_file)
        if "after" in when:
            add(pipe, styles, fuse="fused" in when)
        drawn[when] = latents(pipe)
    assert torch.equal(drawn["before"], drawn["after"]) and not torch.allclose(drawn["before"], drawn["plain"], atol=1e-2)
    for when in ("before, fused", "after, fused"):
        torch.testing.assert_close(drawn[when], drawn["before"], atol=1e-4, rtol=1e-3)


def test_a_style_lora_survives_plugging_and_unplugging(tiny_base_folder, styles, sun_file):
    pipe = pipeline(tiny_base_folder)
    add(pipe, styles)
    before = latents(pipe, guidance_scale=3.0)
    sunlab.plug(pipe, sun_file)
    latents(pipe)
    sunlab.unplug(pipe)
    assert torch.equal(latents(pipe, guidance_scale=3.0), before)
    sunlab.plug(pipe, sun_file)
    pipe.unload_lora_weights()
    other = pipeline(tiny_base_folder)
    assert torch.equal(latents(pipe), latents(sunlab.plug(other, sun_file)))


@pytest.mark.parametrize("change", ["set_adapters", "disable_lora", "unload_lora_weights"])
def test_a_style_lora_that_is_changed_between_two_steps(change, tiny_base_folder, styles, sun_file, monkeypatch):
    """What was kept of the prompts is computed anew: as without keeping anything."""

    def between(pipe, step, *_):
        if step == 1:
            getattr(pipe, change)(*((["style0"], [0.1]) if change == "set_adapters" else ()))
        return {}

    drawn = []
    for kept in (True, False):
        pipe = pipeline(tiny_base_folder)
        add(pipe, styles[:1])
        sunlab.plug(pipe, sun_file)
        if not kept:
            monkeypatch.setattr(PassState, "inference", False)
        drawn.append(latents(pipe, callback_on_step_end=between))
    torch.testing.assert_close(*drawn, atol=1e-5, rtol=1e-5)


def test_a_lora_student_beside_a_style_lora(tiny_base_folder, styles, lora_file):
    def draw(*steps):
        pipe = pipeline(tiny_base_folder)
        for step in steps:
            step(pipe)
        return latents(pipe, negative=None)

    def plug(pipe):
        sunlab.plug(pipe, lora_file)

    def load(pipe):
        add(pipe, styles[:1])

    before = draw(load, plug)
    assert not torch.allclose(before, draw(plug), atol=1e-3)
    torch.testing.assert_close(draw(plug, load), before, atol=1e-5, rtol=1e-4)
    pipe = pipeline(tiny_base_folder)
    add(pipe, styles[:1], fuse=True)
    plug(pipe)
    torch.testing.assert_close(latents(pipe, negative=None), before, atol=1e-4, rtol=1e-3)


@pytest.fixture
def controlled(tiny_base_folder):
    """A fine-tune of the base, its weights all moved, with a ControlNet."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = load_base(tiny_base_folder).backbone.unet
        controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 16))
        for p in controlnet.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
        pipe = pipeline(tiny_base_folder, StableDiffusionControlNetPipeline, controlnet=controlnet)
        for p in pipe.unet.parameters():
            p.data.add_(0.02 * torch.randn_like(p))
    return pipe


def test_a_fine_tune_with_a_style_lora_and_a_controlnet_which_sees_positive_tokens_only(controlled, styles, sun_file):
    pipe = controlled
    image = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    given = {"image": image, "height": 32, "width": 32}
    add(pipe, styles[:1])
    before = latents(pipe, guidance_scale=3.0, **given)
    sunlab.plug(pipe, sun_file)
    seen = []
    hook = pipe.controlnet.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    drawn = latents(pipe, **given)
    hook.remove()
    positive, _ = pipe.encode_prompt(PROMPTS, torch.device("cpu"), 1, False)
    assert len(seen) == 4 and all(torch.equal(tokens, positive) for tokens in seen)
    assert not torch.allclose(latents(pipe, negative="red", **given), drawn)
    assert not torch.allclose(latents(pipe, **{**given, "image": 1 - image}), drawn)
    pipe.set_adapters(["style0"], [0.0])
    assert not torch.allclose(latents(pipe, **given), drawn)
    pipe.set_adapters(["style0"], [0.8])
    assert torch.equal(latents(pipe, **given), drawn)
    sunlab.unplug(pipe)
    assert torch.equal(latents(pipe, guidance_scale=3.0, **given), before)


def ip_adapter(unet):
    """The state dict of a tiny random IP-Adapter, image embeddings of width 6."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g)

    d = unet.config.cross_attention_dim
    layers = {}
    for number, name in enumerate(unet.attn_processors):
        attn = unet.get_submodule(name.removesuffix(".processor"))
        if attn.is_cross_attention:
            layers |= {f"{number}.to_{x}_ip.weight": normal(attn.inner_dim, d) for x in "kv"}
    proj = {"proj.weight": normal(4 * d, 6), "proj.bias": normal(4 * d), "norm.weight": normal(d), "norm.bias": normal(d)}
    return {"image_proj": proj, "ip_adapter": layers}


@pytest.mark.parametrize("file", ["sun_file", "sun_lora_file"])
def test_ip_adapter_before_and_after(file, tiny_base_folder, request):
    sun_file = request.getfixturevalue(file)

    def load(pipe):
        pipe.load_ip_adapter(ip_adapter(pipe.unet), subfolder="", weight_name="", image_encoder_folder=None)
        pipe.set_ip_adapter_scale(0.7)

    embeds = [torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(1))]
    given = {"ip_adapter_image_embeds": embeds}
    before = pipeline(tiny_base_folder)
    load(before)
    base_drawn = latents(before, negative=None, guidance_scale=1.0, **given)
    processors = dict(before.unet.attn_processors)
    sunlab.plug(before, sun_file)
    drawn = latents(before, **given)
    after = sunlab.plug(pipeline(tiny_base_folder), sun_file)
    plain = latents(after)
    load(after)
    torch.testing.assert_close(latents(after, **given), drawn, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(drawn, plain, atol=1e-2)  # the picture acts
    assert not torch.allclose(latents(after, negative="red", **given), drawn)  # and so does the negative prompt
    both = {"ip_adapter_image_embeds": [torch.cat([torch.zeros_like(each), each]) for each in embeds]}
    assert torch.equal(latents(before, **both), drawn)  # as diffusers prepares them for two passes
    after.set_ip_adapter_scale(0.0)
    torch.testing.assert_close(latents(after, **given), plain, atol=1e-5, rtol=1e-4)  # without it, SUN alone
    after.unload_ip_adapter()
    torch.testing.assert_close(latents(after), plain, atol=1e-6, rtol=1e-5)
    sunlab.unplug(before)
    assert before.unet.attn_processors == processors
    assert torch.equal(latents(before, negative=None, guidance_scale=1.0, **given), base_drawn)


def test_a_processor_of_somebody_elses_is_not_overwritten(tiny_base_folder, sun_file):
    class Strange:
        def __call__(self, attn: Attention, hidden_states, encoder_hidden_states=None, attention_mask=None):
            return hidden_states

    pipe = pipeline(tiny_base_folder)
    pipe.unet.set_attn_processor(Strange())
    found = dict(pipe.unet.attn_processors)
    with pytest.raises(ConfigError, match="runs Strange, which an adapter cannot be composed with"):
        sunlab.plug(pipe, sun_file)
    assert pipe.unet.attn_processors == found


def as_the_card_says(card, folder, monkeypatch):
    """The pipeline that the lines of a model card make, and how they call it."""
    lines = card.read_text().split("```python\n")[1].split("```")[0].replace('"BASE"', repr(str(folder)))
    load, _, call = lines.rpartition("image = pipe(")
    monkeypatch.chdir(card.parent)
    found = {}
    exec(load, found)
    found["pipe"].set_progress_bar_config(disable=True)
    return found["pipe"], call


@pytest.mark.parametrize(
    ("layout", "alpha", "solver"),
    [
        ("diffusers", None, "ddim"),
        ("diffusers", 3.0, "dpmpp_2m"),
        ("kohya", 3.0, "lcm"),
        ("kohya", None, "ddim"),
    ],
)
def test_lora_students_in_the_layouts_of_others(layout, alpha, solver, tiny_base_folder, tmp_path, monkeypatch):
    """Loaded by diffusers itself, as the card says, it draws what the plugged adapter draws, alpha / r and all."""
    file = make(tiny_base_folder, tmp_path / "lora.safetensors", LoRA(rank=2, alpha=alpha), solver=solver)
    plugged = sunlab.plug(pipeline(tiny_base_folder), file)
    _, card = export_adapter(file, layout=layout, out=tmp_path / "out" / "pytorch_lora_weights.safetensors")
    pipe, call = as_the_card_says(card, tiny_base_folder, monkeypatch)
    assert "num_inference_steps=4, guidance_scale=1.0" in call
    theirs = latents(pipe, negative=None, guidance_scale=1.0, generator=torch.Generator().manual_seed(0))
    ours = latents(plugged, negative=None, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("adapter", "said", "unsaid"),
    [
        (SUN(), 'negative_prompt="green", num_inference_steps=4)', "guidance_scale"),
        (SUN(negative=False), '"a red apple", num_inference_steps=4)', "negative_prompt"),
        (SUNW(), "guidance_scale=3)", "load_lora_weights"),
        (LoRA(rank=2), '"a red apple", num_inference_steps=4)', "negative_prompt"),
    ],
    ids=["sun", "blind", "sun_w", "lora"],
)
def test_the_lines_of_our_own_card_run_and_ask_for_what_acts(adapter, said, unsaid, tiny_base_folder, tmp_path, monkeypatch):
    file = make(tiny_base_folder, tmp_path / "a.safetensors", adapter)
    _, card = export_adapter(file, layout="sunlab", out=tmp_path / "out" / "b.safetensors")
    pipe, call = as_the_card_says(card, tiny_base_folder, monkeypatch)
    assert said in call and unsaid not in call
    assert pipe._sunlab.file == "b.safetensors"
    assert "| trained at guidance | 2 to 4 |" in card.read_text()
    drawn = eval(f"pipe({call}", {"pipe": pipe})  # it warns of nothing, which would be an error here
    assert drawn.size == (32, 32)


def test_sun_refuses_twice_through_another_pipeline(tiny_base_folder, sun_file):
    pipe = sunlab.plug(pipeline(tiny_base_folder), sun_file)
    with pytest.raises(ConfigError, match="detach it first"):
        SUN().attach(UNetLayers(pipe.unet))
