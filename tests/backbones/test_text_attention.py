"""Extensions of a U-Net's cross-attention layers: composition, restoration, and a state that belongs to the call."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sunlab.errors import ConfigError
from sunlab.types import Conditioning


def given(seed=0, rows=2):
    g = torch.Generator().manual_seed(seed)
    x, tokens = torch.randn(rows, 4, 8, 8, generator=g), torch.randn(rows, 77, 16, generator=g)
    return x, torch.full((rows,), 0.5, dtype=torch.float64), Conditioning(tokens)


def own(call, state):
    """The layer's own attention, computed from what the contract offers, and a multiple of it."""
    layer = call.layer
    key, value = (to(call.tokens).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for to in (layer.to_k, layer.to_v))
    z = scaled_dot_product_attention(call.query(), layer.norm_k(key), value, attn_mask=call.mask())
    return layer.out(state * z.transpose(1, 2).flatten(2))


def below(call, state):
    return call.below(state)


@pytest.fixture
def backbone(tiny_base):
    return tiny_base.freeze().backbone


def everywhere(backbone, extension):
    return backbone.extend(dict.fromkeys(backbone.text_attention(), extension))


def test_the_layers_and_their_widths(backbone):
    layers = backbone.text_attention()
    assert list(layers) == [n.removesuffix(".processor") for n in backbone.unet.attn_processors if "attn2" in n]
    for path, layer in layers.items():
        attn = backbone.unet.get_submodule(path)
        assert (layer.width, layer.text_width) == tuple(attn.to_k.weight.shape) and layer.heads == attn.heads
        assert layer.plain and not layer.extended


def test_what_the_contract_offers_is_the_layers_own_attention(backbone):
    x, t, c = given()
    masked = Conditioning(c.tokens, mask=torch.arange(77)[None].expand(2, -1) < torch.tensor([[5], [77]]))
    for prompt in (c, masked):
        wanted = backbone.predict(x, t, prompt)
        attachment = everywhere(backbone, own)
        torch.testing.assert_close(backbone.predict(x, t, prompt, 1.0), wanted, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(backbone.predict(x, t, prompt, 3.0), wanted, atol=1e-3)
        assert torch.equal(backbone.predict(x, t, prompt), wanted), "without a state it is the base"
        attachment.remove()


def test_padding_does_not_change_the_result(backbone):
    x, t, c = given()
    mask = torch.arange(77)[None].expand(2, -1) < 10
    short, other = Conditioning(c.tokens[:, :10]), c.tokens.clone()
    other[:, 10:] = 7
    wanted = backbone.predict(x, t, short)
    for tokens in (c.tokens, other):
        torch.testing.assert_close(backbone.predict(x, t, Conditioning(tokens, mask=mask)), wanted, atol=1e-5, rtol=1e-4)


def test_removed_they_leave_the_processors_as_they_were(backbone):
    before = dict(backbone.unet.attn_processors)
    first, second = everywhere(backbone, below), everywhere(backbone, own)
    assert all(layer.extended and not layer.plain for layer in backbone.text_attention().values())
    with pytest.raises(ConfigError, match="detach that one first"):
        first.remove()
    second.remove()
    first.remove()
    after = backbone.unet.attn_processors
    assert all(after[name] is processor for name, processor in before.items())


def test_one_on_top_of_another_runs_it(backbone):
    x, t, c = given()
    everywhere(backbone, own)
    wanted = backbone.predict(x, t, c, 2.0)
    everywhere(backbone, lambda call, state: call.below(2 * state))
    torch.testing.assert_close(backbone.predict(x, t, c, 1.0), wanted, atol=0, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_state_belongs_to_the_call(backbone, checkpointing):
    """Two threads over one network, each with a backward pass; activations are recomputed in it."""
    if checkpointing:
        backbone.unet.enable_gradient_checkpointing()
    backbone.unet.train()
    everywhere(backbone, own)
    x, t, c = given()

    def gradient(state):
        tokens = c.tokens.clone().requires_grad_()
        backbone.predict(x, t, Conditioning(tokens), state).square().sum().backward()
        return tokens.grad

    alone = [gradient(float(s)) for s in range(1, 5)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(gradient, [1.0, 2.0, 3.0, 4.0] * 4))
    for i, found in enumerate(together):
        torch.testing.assert_close(found, alone[i % 4], atol=1e-5, rtol=1e-4)


def test_an_unknown_layer_or_a_foreign_processor_is_refused(backbone):
    with pytest.raises(ConfigError, match="no text-attention layer nowhere"):
        backbone.extend({"nowhere": own})
    path = list(backbone.text_attention())[-1]
    foreign = type("Foreign", (), {"__call__": lambda self, attn, hidden_states, **_: hidden_states})()
    backbone.unet.get_submodule(path).set_processor(foreign)
    before = dict(backbone.unet.attn_processors)
    with pytest.raises(ConfigError, match=f"{path} runs Foreign"):
        everywhere(backbone, own)
    assert all(backbone.unet.attn_processors[name] is p for name, p in before.items())
