"""AGD against the formula of arXiv 2503.07274, written down a second time in numpy; its time and its guidance scale."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from test_vsf import PLACES, TEXT, WIDTH, layer, normal  # noqa: F401

from sunlab.adapters.agd import AGD, AGDAttention, AttentionAdapter, OffsetAdapter, ScalarEncoder
from sunlab.adapters.nag import NAG
from sunlab.adapters.state import PassState
from sunlab.adapters.strength import Strength
from sunlab.adapters.sun import SUN
from sunlab.backbones.sd.attention import Extended
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.errors import ConfigError
from sunlab.export import load_adapter, save_adapter
from sunlab.export.shapes import describe_base
from sunlab.testing.toy_backbone import toy_base
from sunlab.types import Conditioning

HIDDEN = 6


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def encoded(p, name, s):
    """E(s) of one scalar, of the parameters p by name."""
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / HIDDEN) for i in range(HIDDEN)])
    phases = np.array([i * 0.6180339887498949 % 1 for i in range(HIDDEN)])
    quantiles, phases = (each.astype(np.float32).astype(float) for each in (quantiles, phases))
    x = np.cos(2 * np.pi * (quantiles * s + phases))
    x = np.maximum(p[f"{name}.net.0.weight"] @ x + p[f"{name}.net.0.bias"], 0)
    x = p[f"{name}.net.2.weight"] @ x + p[f"{name}.net.2.bias"]
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return x * p[f"{name}.net.3.weight"] + p[f"{name}.net.3.bias"]


def reference(p, kind, x, w, time, tokens):
    """f of one sample (P, h); tokens (L, d), without padding."""
    scalars = [encoded(p, "of_guidance", w), encoded(p, "of_time", time / 100)]
    project = lambda c: c @ p["of_prompt.weight"].T + p["of_prompt.bias"]  # noqa: E731
    if kind is AttentionAdapter:
        seen = np.stack([*scalars, *project(tokens)])
        for place in range(len(seen)):  # sines, then cosines
            for i in range(HIDDEN // 2):
                angle = place / 10000 ** (2 * i / HIDDEN)
                seen[place, i] += np.sin(angle)
                seen[place, HIDDEN // 2 + i] += np.cos(angle)
        q, k, v = x @ p["to_q.weight"].T, seen @ p["to_k.weight"].T, seen @ p["to_v.weight"].T
        inside = softmax(q @ k.T / np.sqrt(HIDDEN)) @ v
    else:
        mixed = p["mix.weight"] @ (sum(scalars) + project(tokens.mean(0))) + p["mix.bias"]
        mixed = np.maximum(mixed, 0)
        mixed = (mixed - mixed.mean()) / np.sqrt(mixed.var() + 1e-5) * p["norm.weight"] + p["norm.bias"]
        inside = mixed[None].repeat(len(x), 0)
    return inside @ p["out.weight"].T + p["out.bias"]


@pytest.mark.parametrize("kind", [AttentionAdapter, OffsetAdapter])
@pytest.mark.parametrize("masked", [False, True])
def test_the_formula(layer, kind, masked):  # noqa: F811
    attn, _ = layer
    with torch.random.fork_rng():
        torch.manual_seed(1)
        beside = kind(WIDTH, TEXT, HIDDEN).double().requires_grad_(False)
        torch.nn.init.normal_(beside.out.weight)
        torch.nn.init.normal_(beside.out.bias)
    x, tokens = normal(2, PLACES, WIDTH, seed=1), normal(2, 7, TEXT, seed=2)
    lengths = [5, 3] if masked else [7, 7]
    seen = torch.arange(7) < torch.tensor(lengths)[:, None]
    bias = torch.zeros(2, 1, 7, dtype=torch.float64).masked_fill(~seen[:, None], -torch.inf) if masked else None
    processor = Extended((plain := attn.processor), AGDAttention(beside))
    w, time = torch.tensor([1.5, 7.0], dtype=torch.float64), torch.tensor([999.0, 499.0], dtype=torch.float64)
    out = processor(attn, x, tokens, bias, sun=PassState(guidance=w, time=time, scale=0.5))
    offset = (out - plain(attn, x, tokens, bias)).numpy()
    p = {name: tensor.numpy() for name, tensor in beside.state_dict().items()}
    for row in range(2):
        given = tokens[row, : lengths[row]].numpy()
        expected = 0.5 * reference(p, kind, x[row].numpy(), float(w[row]), float(time[row]), given)
        np.testing.assert_allclose(offset[row], expected, atol=1e-6)


def ask(backbone, adapter, w=3.0, t=0.5, strength=None):
    positive, negative = (Conditioning(normal(2, 6, 8, seed=s).float()) for s in (2, 3))
    state = (strength or Strength()).on(adapter.state(positive, negative, torch.full((2,), w)))
    x, time = normal(2, *backbone.sample_shape, seed=1).float(), torch.full((2,), t, dtype=torch.float64)
    with torch.no_grad():
        return backbone.predict(x, time, positive, state), backbone.predict(x, time, positive)


@pytest.fixture
def trained():
    base, adapter = toy_base().freeze().backbone, AGD(hidden=8)
    adapter.attach(base)
    on, off = ask(base, adapter)
    assert torch.equal(on, off)  # zero at first
    with torch.no_grad():
        for i, parameter in enumerate(adapter.trainable()):
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    return base, adapter


def test_guidance_and_time_are_conditions(trained):
    def offset(**given):
        on, off = ask(*trained, **given)
        return on - off

    first = offset()
    assert not torch.allclose(first, offset(w=4.0), atol=1e-4) and not torch.allclose(first, offset(t=0.4), atol=1e-4)
    assert not first.allclose(torch.zeros(())) and torch.equal(*ask(*trained, strength=Strength(0.0)))


def test_it_is_exported_whole_and_nag_stacks_on_it(trained, tmp_path):
    base, adapter = trained
    file = save_adapter(tmp_path / "a.safetensors", adapter, {"base": describe_base(base)}, dtype=torch.float32)
    other = toy_base().freeze().backbone
    again, _ = load_adapter(file, other)
    assert torch.equal(ask(other, again)[0], ask(*trained)[0]) and again.spec == adapter.spec
    again.detach()
    with pytest.raises(ConfigError, match="another adapter"):
        SUN().attach(base)
    stacked = NAG(blend=0.0, inner={"name": "agd", "hidden": 8})
    stacked.attach(other)
    with torch.no_grad():
        for name, tensor in adapter.tensors().items():
            stacked.tensors()[name].copy_(tensor)
    torch.testing.assert_close(ask(other, stacked)[0], ask(*trained)[0], atol=1e-5, rtol=1e-4)
    assert stacked.steered and stacked.scales == {"scale"}


def test_a_network_that_states_no_time_is_an_error(tiny_base):
    unet, adapter = tiny_base.freeze().backbone.unet, AGD(hidden=4)
    adapter.attach(UNetLayers(unet))
    x, tokens = torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, 16)
    state = adapter.state(Conditioning(tokens), None, torch.ones(1))
    with pytest.raises(ConfigError, match="does not state the time"), torch.no_grad():
        UNetLayers(unet).run(state, x, 500, encoder_hidden_states=tokens)


def test_a_width_of_nothing_is_an_error():
    with pytest.raises(ConfigError, match="hidden must be at least 1"):
        AGD(hidden=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_does_not_round_the_frequencies(dtype):
    """Angles are many turns: frequencies rounded to bfloat16 are wrong by tenths of one."""
    encoder, numbers = ScalarEncoder(16), torch.tensor([1.0, 9.99, 7.5])
    encoder.net = torch.nn.Sequential(torch.nn.Linear(16, 16))
    torch.nn.init.eye_(encoder.net[0].weight)
    torch.nn.init.zeros_(encoder.net[0].bias)
    with torch.no_grad():
        wanted = encoder(numbers)
        torch.testing.assert_close(encoder.to(dtype)(numbers).float(), wanted, atol=0.01, rtol=0)
