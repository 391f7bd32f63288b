"""Stable Diffusion 3 and 3.5: sampling equal to diffusers' own, the traps of joint attention."""

from dataclasses import replace

import diffusers
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sunlab.backbones.pretrained import load_base, outline_base
from sunlab.backbones.sd3.tiny import write_tiny as tiny_sd3
from sunlab.diffusion.grid import grid
from sunlab.draws import starting_noise
from sunlab.errors import ConfigError
from sunlab.pipelines.draw import Request, draw, with_guidance
from sunlab.solvers import Sampler
from sunlab.solvers.ddim import DDIM

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
PROMPTS, NEGATIVES, SEEDS = ["a pizza", "a large tiger"], ["green", ""], [3, 4]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sd3")
    return {
        "sd35_medium": tiny_sd3(root / "sd35_medium"),
        "sd3": tiny_sd3(root / "sd3", "sd3"),
        "without T5": tiny_sd3(root / "small", t5=False),
    }


@pytest.mark.parametrize("name", ["sd35_medium", "sd3", "without T5"])
def test_guided_sampling_is_diffusers_own(name, folders):
    base = load_base(folders[name]).freeze()
    path = base.backbone.path
    assert path.shift == 3.0 and (base.text.t5 is None) == (name == "without T5")
    without = {"text_encoder_3": None, "tokenizer_3": None} if base.text.t5 is None else {}
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(folders[name], local_files_only=True, **without)
    pipe.set_progress_bar_config(disable=True)
    request = Request(PROMPTS, NEGATIVES, SEEDS)
    ours = draw(base, Sampler(DDIM(path), grid(4, path=path)), with_guidance(base), request, w=5.0)
    given = {"negative_prompt": NEGATIVES, "guidance_scale": 5.0, "latents": starting_noise(SEEDS, (16, 8, 8))}
    given["sigmas"] = [1.0, 0.75, 0.5, 0.25]  # trailing, before the shift
    theirs = pipe(PROMPTS, **given, num_inference_steps=4, output_type="latent").images
    torch.testing.assert_close(ours.latents, theirs, atol=1e-4, rtol=1e-4)
    given["latents"] = starting_noise(SEEDS, (16, 8, 8))
    pictures = pipe(PROMPTS, **given, num_inference_steps=4, output_type="pt").images
    torch.testing.assert_close(ours.images, pictures, atol=1e-4, rtol=1e-4)


def test_prompts_are_encoded_as_diffusers_does(folders):
    base = load_base(folders["sd35_medium"], backbone={"name": "sd3", "max_sequence_length": 20})
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(folders["sd35_medium"], local_files_only=True)
    wanted, _, pooled, _ = pipe.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=20)
    found = base.encode(PROMPTS)
    torch.testing.assert_close(found.tokens, wanted)
    torch.testing.assert_close(found.pooled, pooled)
    assert found.tokens.shape == (2, 97, 48) and found.mask is None
    assert not torch.equal(found.tokens[0, 77:], found.tokens[1, 77:])


def test_latents_are_shifted_and_scaled(folders):
    base = load_base(folders["sd35_medium"])
    images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    raw = base.autoencoder.vae.encode(images / 127.5 - 1).latent_dist.mean
    torch.testing.assert_close(base.autoencoder.encode(images), (raw - 0.0609) * 1.5305)


def test_the_branch_sees_projected_tokens_normalised_keys_and_the_image_alone(folders):
    """An extension that computes attention to tokens of its own, as SUN's does: its output is that of the formula."""
    backbone = load_base(folders["sd35_medium"]).freeze().backbone
    layers, seen = backbone.text_attention(), {}
    assert list(layers) == [f"transformer_blocks.{i}.attn" for i in range(3)], "attn2 has no text"
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 16, 8, 8, generator=generator), torch.tensor([0.9, 0.3], dtype=torch.float64)
    prompts = replace(backbone.blank(2), tokens=torch.randn(2, 90, 48, generator=generator))
    negative = replace(prompts, tokens=torch.randn(2, 90, 48, generator=generator))
    own = backbone.context(negative).tokens
    torch.testing.assert_close(own, backbone.transformer.context_embedder(negative.tokens))
    block = backbone.transformer.transformer_blocks[0]

    def branch(call, state):
        layer, query = call.layer, call.query()
        key, value = (to(own).unflatten(-1, (2, -1)).transpose(1, 2) for to in (layer.to_k, layer.to_v))
        n = scaled_dot_product_attention(query, layer.norm_k(key), value).transpose(1, 2).flatten(2)
        return layer.out(call.attention() - state * n)

    def keep(module, args, kwargs, out):
        seen.update(kwargs, image=out[0], text=out[1])

    backbone.extend({"transformer_blocks.0.attn": branch})
    hook = block.attn.register_forward_hook(keep, with_kwargs=True)
    backbone.predict(x, t, prompts, 0.0)
    plain = dict(seen)
    backbone.predict(x, t, prompts, 0.7)
    hook.remove()
    torch.testing.assert_close(seen["text"], plain["text"], msg="the text stream is the base's")
    attn, hidden = block.attn, seen["hidden_states"]

    def rms(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    parts = attn.to_q(hidden), attn.add_k_proj(own), attn.add_v_proj(own)
    query, key, value = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in parts)
    query, key = rms(query, attn.norm_q.weight), rms(key, attn.norm_added_k.weight)
    n = (query @ key.mT / 8**0.5).softmax(-1) @ value
    wanted = plain["image"] - 0.7 * n.transpose(1, 2).flatten(2) @ attn.to_out[0].weight.T
    torch.testing.assert_close(seen["image"], wanted, atol=1e-5, rtol=1e-4)


def test_a_mask_is_refused(folders):
    """Its layers attend to padding, as they were trained to, and would drop a mask."""
    backbone = load_base(folders["sd35_medium"]).freeze().backbone
    prompts = replace(backbone.blank(1), mask=torch.ones(1, 333, dtype=torch.bool))
    with pytest.raises(ConfigError, match="takes no mask"):
        backbone.predict(torch.zeros(1, 16, 8, 8), torch.tensor([0.5]), prompts)


def test_what_is_stated_but_does_not_apply_is_refused(folders):
    for name, value in (("prediction_type", "epsilon"), ("zero_terminal_snr", True)):
        with pytest.raises(ConfigError, match=f"model.{name}"):
            load_base(folders["without T5"], **{name: value})


def test_the_shipped_configurations_are_the_published_sizes():
    from sunlab.export.shapes import describe_base

    sizes = {"sd3": 2_028_328_000, "sd35_medium": 2_243_171_520}
    for family, size in sizes.items():
        outline = outline_base("nowhere/model", family=family)
        assert sum(p.numel() for p in outline.backbone.parameters()) == size
        assert describe_base(outline.backbone)["family"] == family
