"""SUN against the formula of the paper, written down here a second time, head by head, in float64."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from sunlab.adapters.attention import Branch, SUNAttention
from sunlab.adapters.state import PassState
from sunlab.adapters.sun import SUN
from sunlab.backbones.sd.attention import Extended
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.errors import ConfigError
from sunlab.types import Conditioning

WIDTH, HEADS, TEXT, TOKENS, PLACES = 12, 3, 5, 7, 10
SWITCHES = ("extra_positive", "normalise", "scale")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(*, branches=("negative", "positive"), seed=0, **options):
    """A cross-attention layer with random weights, and its processor; alpha and beta far from 1 and 0."""
    torch.manual_seed(seed)
    attn = Attention(query_dim=WIDTH, cross_attention_dim=TEXT, heads=HEADS, dim_head=WIDTH // HEADS)
    options = {"normalise": True, "scale": True, "compat": False, **options}
    made = {name: Branch(TEXT, WIDTH, **options) if name in branches else None for name in ("negative", "positive")}
    for branch in made.values():
        if branch is not None and branch.alpha is not None:
            branch.alpha.data, branch.beta.data = torch.randn(WIDTH), torch.randn(WIDTH)
    return attn, extended(made["negative"], made["positive"])


def extended(negative, positive):
    """diffusers' plain processor with SUN's extension."""
    return Extended(AttnProcessor2_0(), SUNAttention(negative, positive))


def branches_of(processor):
    return processor.extension.negative, processor.extension.positive


def inputs(batch=3, seed=1):
    return normal(batch, PLACES, WIDTH, seed=seed), normal(batch, TOKENS, TEXT, seed=2), normal(batch, TOKENS, TEXT, seed=3)


def attention(q, k, v):
    """Softmax attention of one sample, head by head; q (P, h), k and v (L, h)."""
    out, width = [], WIDTH // HEADS
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        out.append(weights / weights.sum(1, keepdims=True) @ v[:, part])
    return np.concatenate(out, 1)


def reference(attn, processor, x, positive, negative, *, whole_batch=False):
    """out = W_out(Z - N' + P'), N' = alpha (|Z| N / |N|) + beta."""
    w = {name: p.detach().double().numpy() for name, p in attn.named_parameters()}
    x, positive, negative = (part.double().numpy() for part in (x, positive, negative))
    q = x @ w["to_q.weight"].T
    z = np.stack(
        [attention(*qkv) for qkv in zip(q, positive @ w["to_k.weight"].T, positive @ w["to_v.weight"].T, strict=True)]
    )

    def branch(b, tokens):
        k, v = (tokens @ m.weight.detach().double().numpy().T for m in (b.to_k, b.to_v))
        n = np.stack([attention(*qkv) for qkv in zip(q, k, v, strict=True)])
        if b.normalise:
            axes = None if whole_batch else (1, 2)
            n = np.sqrt((z**2).sum(axes, keepdims=True)) * n / np.sqrt((n**2).sum(axes, keepdims=True))
        if b.alpha is not None:
            n = b.alpha.detach().double().numpy() * n + b.beta.detach().double().numpy()
        return n

    total = z
    for sign, b, tokens in zip((-1, 1), branches_of(processor), (negative, positive), strict=True):
        total = total if b is None else total + sign * branch(b, tokens)
    return torch.from_numpy(total @ w["to_out.0.weight"].T + w["to_out.0.bias"])


def call(attn, processor, x, positive, negative, **options):
    with torch.no_grad():
        return processor(attn, x, positive, sun=PassState(negative), **options)


@pytest.mark.parametrize(("extra_positive", "normalise", "scale"), list(product([True, False], repeat=3)))
@pytest.mark.parametrize("compat", [False, True])
def test_the_formula(extra_positive, normalise, scale, compat):
    branches = ("negative", "positive") if extra_positive else ("negative",)
    attn, processor = layer(branches=branches, normalise=normalise, scale=scale, compat=compat)
    expected = reference(attn, processor, *inputs(), whole_batch=compat)
    torch.testing.assert_close(call(attn, processor, *inputs()).double(), expected, atol=1e-5, rtol=1e-5)


def test_compat_and_default_are_equal_at_batch_1():
    x, positive, negative = inputs(batch=1)
    outs = [call(*layer(compat=compat), x, positive, negative) for compat in (False, True)]
    torch.testing.assert_close(*outs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("compat", [False, True])
def test_batch_mates_matter_in_compat_only(compat):
    attn, processor = layer(compat=compat)
    x, positive, negative = inputs()
    before = call(attn, processor, x, positive, negative)
    mates = negative.clone()
    mates[1:] *= 3
    after = call(attn, processor, x, positive, mates)
    assert torch.equal(before[0], after[0]) is not compat


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rescale", [1.0, 2.0])
@torch.no_grad()
def test_what_is_kept_over_a_generation_is_what_is_computed_anew(rescale, bias):
    """Keys, values, and the betas in W_out's bias; a change of the prompts in place is seen."""
    attn, processor = layer()
    attn.rescale_output_factor = rescale
    if not bias:
        attn.to_out[0].bias = None
    x, positive, negative = inputs()
    kept = PassState.of(Conditioning(negative))
    for _ in range(2):
        for step in range(2):
            now = x + step
            once = processor(attn, now, positive, sun=PassState(negative))
            torch.testing.assert_close(processor(attn, now, positive, sun=kept), once, atol=1e-6, rtol=1e-5)
        positive.mul_(0.5)
        negative.add_(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("zero", ["negative", "both", "values"])
def test_zero_attention_gives_neither_nan_nor_an_exploding_gradient(zero, dtype):
    attn, processor = layer()
    for module in (attn, *branches_of(processor)):
        module.to(dtype)
    x, positive, negative = (part.to(dtype) for part in inputs())
    if zero == "values":
        branches_of(processor)[0].to_v.weight.data.zero_()
    else:
        negative = torch.zeros_like(negative)
        positive = torch.zeros_like(positive) if zero == "both" else positive
    out = processor(attn, x, positive, sun=PassState(negative))
    out.float().square().sum().backward()
    assert bool(out.isfinite().all())
    for branch in branches_of(processor):
        for name, parameter in branch.named_parameters():
            assert bool(parameter.grad.isfinite().all()), name
            assert float(parameter.grad.float().abs().max()) < 1e4, name
    if zero == "values":
        return
    compat = extended(Branch(TEXT, WIDTH, normalise=True, scale=True, compat=True).to(dtype), None)
    assert bool(call(attn, compat, x, positive, negative).isnan().any())  # as released


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 4])
def test_half_precision(dtype, rows):
    attn, processor = layer()
    expected = call(attn, processor, *inputs(rows))
    for module in (attn, *branches_of(processor)):
        module.to(dtype)
    out = call(attn, processor, *(part.to(dtype) for part in inputs(rows)))
    assert out.dtype == dtype and out.shape == (rows, PLACES, WIDTH)
    torch.testing.assert_close(out.float(), expected, atol=0.1 if dtype is torch.bfloat16 else 0.02, rtol=0.05)


def test_a_mask_covers_each_branch_over_its_prompt():
    """10 of 77 tokens kept is a prompt of 10 tokens: for the base's attention, both branches, and each by itself."""
    x, positive, negative = normal(3, PLACES, WIDTH, seed=1), normal(3, 77, TEXT, seed=2), normal(3, 77, TEXT, seed=3)
    mask = torch.zeros(3, 1, 77)
    mask[:, :, 10:] = -10000.0
    kept = torch.arange(77).expand(3, -1) < 10
    for branches in (("negative",), ("positive",), ("negative", "positive")):
        attn, processor = layer(branches=branches)
        with torch.no_grad():
            masked = processor(attn, x, positive, attention_mask=mask, sun=PassState(negative, kept))
        cut = call(attn, processor, x, positive[:, :10], negative[:, :10])
        torch.testing.assert_close(masked, cut, atol=1e-5, rtol=1e-5)
        if "negative" in branches:  # without a mask of its own it attends to every token
            whole = call(attn, processor, x, positive, negative, attention_mask=mask)
            torch.testing.assert_close(whole, call(attn, processor, x, positive[:, :10], negative), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_double_precision(compat, grad):
    """Norms included, and whether values are kept over a generation or not."""
    attn, processor = layer(compat=compat)
    for module in (attn, *branches_of(processor)):
        module.double()
    given = [part.double() for part in inputs()]
    with torch.set_grad_enabled(grad):
        states = PassState(given[2]), PassState.of(Conditioning(given[2]))
        outs = [processor(attn, *given[:2], sun=state) for state in states]
    for out in outs:
        assert out.dtype is torch.float64
        expected = reference(attn, processor, *given, whole_batch=compat)
        torch.testing.assert_close(out.detach(), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("rows", "of"), [("prompt", 1), ("prompt", 6), ("negative", 1), ("negative", 2)])
def test_a_batch_that_does_not_match_is_never_broadcast(rows, of):
    attn, processor = layer()
    x, positive, negative = inputs()
    positive, negative = (
        t.repeat(2, 1, 1)[:of] if rows == n else t for n, t in (("prompt", positive), ("negative", negative))
    )
    with pytest.raises(ConfigError, match=rf"3 .*{of}|3 rows, the prompt embeddings {of}"):
        call(attn, processor, x, positive, negative)


# In a U-Net.


@pytest.fixture
def unet(tiny_base):
    return tiny_base.freeze().backbone.unet


@pytest.fixture
def ask(unet):
    """The U-Net's output, with `adapter` on where one is given."""

    def forward(adapter=None, positive=None, negative=None, rows=2, dtype=torch.float32):
        positive = normal(rows, 77, 16, seed=5) if positive is None else positive
        negative = normal(rows, 77, 16, seed=6) if negative is None else negative
        state = None
        if adapter is not None:
            prompts = Conditioning(positive.to(dtype)), Conditioning(negative.to(dtype))
            state = adapter.state(*prompts, torch.full((rows,), 3.0))
        x = normal(rows, 4, 8, 8, seed=7).to(dtype)
        with torch.no_grad():
            return UNetLayers(unet).run(state, x, 500, encoder_hidden_states=positive.to(dtype), return_dict=False)[0]

    return forward


def test_identity_leaves_the_base_unchanged_to_the_bit(unet, ask):

    before = ask()
    adapter = SUN(init="identity")
    adapter.attach(UNetLayers(unet))
    assert all(isinstance(p.base, AttnProcessor2_0) for p in unet.attn_processors.values())
    assert torch.equal(ask(adapter), before)


def test_copy_doubles_what_two_equal_prompts_share(unet):
    """c_neg = c_pos: N' = P' = Z, so with `extra_positive` out = W_out(2Z - Z) = W_out(Z), and without it W_out(Z - Z)."""
    for extra_positive in (True, False):
        adapter = SUN(init="copy", extra_positive=extra_positive)
        adapter.attach(UNetLayers(unet))
        for name, processor in unet.attn_processors.items():
            attn = unet.get_submodule(name.removesuffix(".processor"))
            if not attn.is_cross_attention:
                continue
            x, tokens = normal(2, 9, attn.to_q.in_features), normal(2, 77, 16, seed=1)
            with torch.no_grad():
                out = processor(attn, x, tokens, sun=PassState(tokens))
                base = processor(attn, x, tokens)
            expected = base if extra_positive else attn.to_out[0].bias.expand_as(base)
            torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
        adapter.detach()


def test_copy_is_twice_z_less_the_negative(unet):
    """alpha = 1, beta = 0, W copied: out = W_out(2 Z - |Z| / |N| N)."""
    adapter = SUN(init="copy")
    adapter.attach(UNetLayers(unet))
    for layer_ in adapter.layers.values():
        for branch in layer_.values():
            assert bool((branch.alpha == 1).all()) and bool((branch.beta == 0).all())
    for name, tensor in adapter.tensors().items():
        path, _, part = name.rpartition(".to_")
        if part.endswith(".weight"):
            own = unet.get_submodule(path).get_parameter(f"to_{part[0]}.weight")
            assert torch.equal(tensor, own), name


def test_self_attention_is_untouched(unet):
    found = dict(unet.attn_processors)
    SUN().attach(UNetLayers(unet))
    x = None
    for name, processor in unet.attn_processors.items():
        attn = unet.get_submodule(name.removesuffix(".processor"))
        if attn.is_cross_attention:
            continue
        assert not isinstance(processor, torch.nn.Module) and processor.base is found[name]
        x = normal(2, 9, attn.to_q.in_features)
        with torch.no_grad():
            assert torch.equal(processor(attn, x, sun=PassState(normal(2, 77, 16))), found[name](attn, x))
    assert x is not None


def test_off_is_the_base_and_detach_leaves_it_as_it_was(unet, ask):
    before, found, state = ask(), dict(unet.attn_processors), {k: v.clone() for k, v in unet.state_dict().items()}
    adapter = SUN()
    adapter.attach(UNetLayers(unet))
    assert not torch.equal(ask(adapter), before)
    assert torch.equal(ask(), before)
    adapter.detach()
    after = unet.state_dict()
    assert torch.equal(ask(), before) and unet.attn_processors == found
    assert list(after) == list(state) and all(torch.equal(after[k], state[k]) for k in state)


def test_the_eager_processor_comes_back_too(unet):
    unet.set_attn_processor(AttnProcessor())
    adapter = SUN()
    adapter.attach(UNetLayers(unet))
    adapter.detach()
    assert all(isinstance(p, AttnProcessor) for p in unet.attn_processors.values())


def test_a_second_adapter_is_refused(unet, ask):
    first = SUN()
    first.attach(UNetLayers(unet))
    with pytest.raises(ConfigError, match="detach it first"):
        SUN().attach(UNetLayers(unet))
    with pytest.raises(ConfigError, match="attached already"):
        first.attach(UNetLayers(unet))
    before = ask(first)
    first.detach()
    first.attach(UNetLayers(unet))
    assert torch.equal(ask(first), before)  # what was learned is still there


def test_the_negative_prompt_reaches_the_output(unet, ask):
    adapter = SUN()
    adapter.attach(UNetLayers(unet))
    first, second = (ask(adapter, negative=normal(2, 77, 16, seed=s)) for s in (8, 9))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_unet_in_half_precision(unet, ask, dtype):
    adapter = SUN()
    adapter.attach(UNetLayers(unet))
    expected = ask(adapter)
    torch.nn.Module.to(unet, dtype)
    out = ask(adapter, dtype=dtype)
    assert out.dtype == dtype and out.shape == expected.shape
    torch.testing.assert_close(out.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"init": "identity", "scale": False}, "scale: true"), ({"extra_positive": False, "negative": False}, "is the base")],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ConfigError, match=message):
        SUN(**options)


def test_stable_diffusion_1_5_has_the_published_size():
    """128 tensors, 38,388,480 parameters: 16 layers, 5 x 320, 5 x 640, 6 x 1280, text width 768."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
        adapter = SUN()
        adapter.attach(UNetLayers(unet))
    tensors = adapter.tensors()
    assert len(tensors) == 128 and sum(t.numel() for t in tensors.values()) == 38_388_480
    widths = [t.shape[0] for name, t in tensors.items() if name.endswith("to_k_neg.weight")]
    assert {w: widths.count(w) for w in widths} == {320: 5, 640: 5, 1280: 6}
    assert all(t.shape[1] == 768 for name, t in tensors.items() if name.endswith("weight"))
