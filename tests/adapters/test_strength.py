"""The factors at sampling: the offset and the LoRA of an adapter scaled apart."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from sunlab.adapters.attention import Branch, SUNAttention
from sunlab.adapters.lora import LoRA
from sunlab.adapters.nag import NAG
from sunlab.adapters.state import PassState
from sunlab.adapters.strength import Strength
from sunlab.adapters.sun import SUN
from sunlab.adapters.sun_lora import SUNLoRA
from sunlab.adapters.sun_w import SUNW
from sunlab.backbones.sd.attention import Extended
from sunlab.errors import ConfigError
from sunlab.testing.toy_backbone import toy_base
from sunlab.types import Conditioning


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("gain", [None, torch.tensor([1.5, 0.5], dtype=torch.float64)])
@pytest.mark.parametrize("scale", [0.0, 0.5, -1.0, 3.0])
def test_the_output_moves_along_the_offset_of_one_layer(scale, gain):
    """W_out is linear: out(scale) - out(0) = scale (out(1) - out(0)), and out(0) is the base's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attn = Attention(query_dim=12, cross_attention_dim=5, heads=3, dim_head=4).double()
        branches = [Branch(5, 12, normalise=True, scale=True, compat=False).double() for _ in range(2)]
    for branch in branches:
        torch.nn.init.normal_(branch.beta, generator=torch.Generator().manual_seed(4))
    x, positive, negative = normal(2, 10, 12, seed=1), normal(2, 7, 5, seed=2), normal(2, 9, 5, seed=3)
    processor, plain = Extended(AttnProcessor2_0(), SUNAttention(*branches)), AttnProcessor2_0()
    state = PassState(negative, gain=gain, gain_positive=gain)
    with torch.no_grad():
        base, full = plain(attn, x, positive), processor(attn, x, positive, sun=state)
        out = processor(attn, x, positive, sun=Strength(scale).on(state))
    torch.testing.assert_close(out - base, scale * (full - base), atol=1e-9, rtol=1e-9)
    assert not torch.allclose(full, base)


def attached(adapter):
    """Over the toy, its parameters moved off their initial values."""
    base = toy_base().freeze()
    adapter.attach(base.backbone)
    with torch.no_grad():
        for index, parameter in enumerate(adapter.trainable()):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return base.backbone, adapter


def ask(backbone, adapter, strength, w=4.0):
    x, prompts = normal(2, *backbone.sample_shape, seed=1).float(), [normal(2, 6, 8, seed=s).float() for s in (2, 3)]
    positive, negative = map(Conditioning, prompts)
    state = adapter.state(positive, negative, torch.full((2,), w))
    with torch.no_grad():
        return backbone.predict(x, torch.tensor([0.9, 0.4], dtype=torch.float64), positive, strength.on(state))


def test_a_lora_at_half_strength_is_half_its_update():
    """Each of two factors acts on its own part: B halved by hand is lora_scale = 0.5, whatever `scale` is."""
    backbone, adapter = attached(SUNLoRA(rank=2, targets=("ff.1", "ff.3", "to_q")))
    at_half = [ask(backbone, adapter, Strength(scale, 0.5)) for scale in (1.0, 0.3)]
    for name, tensor in adapter.tensors().items():
        if ".lora_B." in name:
            with torch.no_grad():
                tensor.mul_(0.5)
    for scale, out in zip((1.0, 0.3), at_half, strict=True):
        torch.testing.assert_close(ask(backbone, adapter, Strength(scale)), out, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(*at_half, atol=1e-3)


def test_nag_passes_the_strength_on():
    backbone, adapter = attached(NAG(inner="sun"))
    out = ask(backbone, adapter, Strength(0.0))
    alone = attached(NAG())
    torch.testing.assert_close(out, ask(*alone, Strength()), atol=1e-5, rtol=1e-4)


def test_a_steered_adapter_follows_the_scale_and_the_guidance():
    backbone, adapter = attached(SUNW(steers="offset"))
    off = ask(backbone, adapter, Strength(), w=1.0)
    assert torch.equal(ask(backbone, adapter, Strength(0.0), w=5.0), off)
    outs = [ask(backbone, adapter, Strength(s), w) for s, w in ((1.0, 5.0), (0.5, 5.0), (1.0, 2.0))]
    assert all(not torch.allclose(out, other) for i, out in enumerate(outs) for other in (*outs[:i], off))


@pytest.mark.parametrize(
    ("adapter", "strength", "named"),
    [
        (LoRA(), Strength(scale=0.5), "scale=0.5: 'lora' has no offset"),
        (SUN(), Strength(lora_scale=0.0), "lora_scale=0: 'sun' has no LoRA"),
        (NAG(), Strength(scale=2.0), "takes neither"),
        (SUN(), Strength(scale=float("nan")), "finite"),
        (SUN(), Strength(scale="1"), "finite"),
        (SUN(), Strength(scale=True), "finite"),
    ],
)
def test_a_factor_without_effect_is_an_error(adapter, strength, named):
    with pytest.raises(ConfigError, match=named):
        strength.check(adapter)


@pytest.mark.parametrize("adapter", [SUN(), SUNW(), SUNLoRA(), NAG(inner="sun"), LoRA()])
def test_as_trained_is_no_change(adapter):
    state = PassState(gain=torch.ones(1), loras={1: 1.0})
    assert Strength().check(adapter).on(state) is state
