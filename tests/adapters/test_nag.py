"""NAG against the formula of arXiv 2505.21179, written down a second time, token by token, in numpy."""

import math

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from sunlab.adapters.attention import Branch, SUNAttention
from sunlab.adapters.lora import ATTENTION
from sunlab.adapters.nag import NAG, NAGAttention
from sunlab.adapters.state import PassState
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd.attention import Extended
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.errors import ConfigError
from sunlab.export import load_adapter, save_adapter
from sunlab.registries import registry_of
from sunlab.types import Conditioning

WIDTH, HEADS, TEXT, PLACES = 12, 3, 5, 10
INNER = {
    "sun": {"name": "sun", "extra_positive": False},
    "sun_w": "sun_w",
    "lora": {"name": "lora", "rank": 2, "targets": list(ATTENTION)},
    "sun_lora": {"name": "sun_lora", "rank": 2, "targets": list(ATTENTION)},
    "nag": {"name": "nag", "phi": 1.0},
}


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(batch=2):
    return normal(batch, PLACES, WIDTH, seed=1), normal(batch, 7, TEXT, seed=2), normal(batch, 9, TEXT, seed=3)


def layer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attn = Attention(query_dim=WIDTH, cross_attention_dim=TEXT, heads=HEADS, dim_head=WIDTH // HEADS)
        branch = Branch(TEXT, WIDTH, normalise=True, scale=True, compat=False)
    return attn.requires_grad_(False), branch.requires_grad_(False)


def attention(attn, x, tokens):
    """Softmax attention of one sample, head by head, before W_out (P, h)."""
    q, k, v = (a @ w.weight.double().numpy().T for a, w in ((x, attn.to_q), (tokens, attn.to_k), (tokens, attn.to_v)))
    out, width = [], WIDTH // HEADS
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(width))
        out.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
    return np.concatenate(out, 1)


def reference(attn, x, positive, negative, phi, tau, blend):
    """Z_nag and Z_pos of one sample, and whether each token was shrunk."""
    z_pos, z_neg = attention(attn, x, positive), attention(attn, x, negative)
    rows, shrunk = [], []
    for plus, minus in zip(z_pos, z_neg, strict=True):
        guided = plus + phi * (plus - minus)
        ratio = np.abs(guided).sum() / np.abs(plus).sum()
        rows.append(blend * (min(ratio, tau) / ratio * guided) + (1 - blend) * plus)
        shrunk.append(ratio > tau)
    return np.stack(rows), z_pos, shrunk


@pytest.mark.parametrize(("phi", "tau", "blend"), [(2.0, 2.5, 0.5), (4.0, 1.5, 0.25), (8.0, 0.5, 1.0), (0.3, 9.0, 1.0)])
@pytest.mark.parametrize("over", ["plain", "sun"])
def test_the_formula(over, phi, tau, blend):
    attn, branch = layer()
    base = AttnProcessor2_0() if over == "plain" else Extended(AttnProcessor2_0(), SUNAttention(branch, None))
    processor = Extended(base, NAGAttention(phi=phi, tau=tau, blend=blend))
    x, positive, negative = given()
    out = processor(attn, x, positive, sun=PassState(negative)).double().numpy()
    below = None if over == "plain" else base(attn, x, positive, sun=PassState(negative)).double().numpy()
    w, b = (p.double().numpy() for p in (attn.to_out[0].weight, attn.to_out[0].bias))
    marks = []
    for row in range(2):
        z, z_pos, shrunk = reference(attn, *(a[row].double().numpy() for a in (x, positive, negative)), phi, tau, blend)
        expected = z @ w.T + b if below is None else below[row] + (z - z_pos) @ w.T
        assert np.abs(out[row] - expected).max() < 1e-5
        marks += shrunk
    assert any(marks) == (phi > 1) and (all(marks) or tau > 1)


def ask(unet, adapter=None):
    g = torch.Generator().manual_seed(0)
    x, positive, negative = (torch.randn(2, *shape, generator=g) for shape in ((4, 8, 8), (77, 16), (77, 16)))
    state = None
    if adapter is not None:
        state = adapter.state(Conditioning(positive), Conditioning(negative), torch.tensor([2.0, 4.0]))
    with torch.no_grad():
        return UNetLayers(unet).run(state, x, 500, encoder_hidden_states=positive, return_dict=False)[0]


@pytest.fixture
def unet(tiny_base):
    return tiny_base.freeze().backbone.unet


@pytest.mark.parametrize("options", [{"phi": 0.0}, {"blend": 0.0}])
@pytest.mark.parametrize("inner", [None, "sun", "lora"])
def test_without_guidance_it_is_what_is_below(unet, tiny_base_folder, inner, options):
    below = None
    other = load_base(tiny_base_folder).freeze().backbone.unet
    if inner is not None:
        below = registry_of("adapters").build(INNER[inner])
        below.attach(UNetLayers(other))
    adapter = NAG(inner=INNER.get(inner), **options, **({"tau": 9.0} if "phi" in options else {}))
    adapter.attach(UNetLayers(unet))
    torch.testing.assert_close(ask(unet, adapter), ask(other, below), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("inner", INNER)
def test_it_stacks(unet, tiny_base_folder, inner, tmp_path):
    """On, off, into a file and out of it, and out of the U-Net without a trace."""
    base = ask(unet)
    before = dict(unet.attn_processors)
    adapter = NAG(inner=INNER[inner])
    adapter.attach(UNetLayers(unet))
    with torch.no_grad():
        for index, parameter in enumerate(adapter.trainable()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    on = ask(unet, adapter)
    assert list(adapter.tensors()) == list(adapter.inner.tensors()) and adapter.steered == (inner == "sun_w")
    torch.testing.assert_close(ask(unet), base, atol=0, rtol=0)
    path = save_adapter(tmp_path / "a.safetensors", adapter, {}, dtype=torch.float32)
    other = load_base(tiny_base_folder).freeze().backbone.unet
    loaded, header = load_adapter(path, UNetLayers(other))
    assert header["adapter"]["inner"]["name"] == adapter.inner.spec["name"]
    torch.testing.assert_close(ask(other, loaded), on)
    adapter.detach()
    assert unet.attn_processors == before and torch.equal(ask(unet), base)


def test_over_what_is_there(unet):
    """Without `inner` it wraps the processors of whoever was plugged in before."""
    below = registry_of("adapters").build(INNER["sun"])
    below.attach(UNetLayers(unet))
    alone = ask(unet, below)
    adapter = NAG()
    adapter.attach(UNetLayers(unet))
    over = ask(unet, adapter)
    assert not torch.allclose(over, alone, atol=1e-4)
    with pytest.raises(ConfigError, match="attached already"):
        adapter.attach(UNetLayers(unet))
    adapter.detach()
    assert torch.equal(ask(unet, below), alone)


def test_nothing_is_trained():
    assert NAG().trainable() == [] and NAG().tensors() == {}


@pytest.mark.parametrize("options", [{"phi": -1.0}, {"tau": 0.0}, {"blend": 1.5}])
def test_parameters_out_of_range(options):
    with pytest.raises(ConfigError, match="nag needs"):
        NAG(**options)


def test_an_unknown_inner_adapter_is_named():
    with pytest.raises(ValueError, match=r"adapter\.inner\.name: no adapter 'sum'; did you mean 'sun'"):
        NAG(inner="sum")
