"""`sun_w`: g(w) against its formula, and the layer as an interpolation between the base's and SUN's own output."""

import math

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from sunlab.adapters.attention import SUNAttention
from sunlab.adapters.state import PassState
from sunlab.adapters.sun_w import SUNW, bent
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd.attention import Extended
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.errors import ConfigError
from sunlab.export import load_adapter, save_adapter
from sunlab.types import Conditioning


@pytest.fixture
def unet(tiny_base):
    return tiny_base.freeze().backbone.unet


def prompts():
    g = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, 8, 8, generator=g), *(Conditioning(torch.randn(3, 77, 16, generator=g)) for _ in range(2))


def ask(unet, adapter=None, w=(1.0, 3.0, 8.0)):
    x, positive, negative = prompts()
    state = None if adapter is None else adapter.state(positive, negative, torch.tensor(w))
    with torch.no_grad():
        return UNetLayers(unet).run(state, x, 500, encoder_hidden_states=positive.tokens, return_dict=False)[0]


def test_g():
    """(w - 1) / (1 + rho (w - 1)): 0 at 1, rising, and below 1 / rho."""
    w = torch.tensor([1.0, 1.5, 2.0, 4.0, 8.0, 1e6], dtype=torch.float64)
    for rho in (0.1, 1.0, 3.0):
        g = bent(w - 1, torch.tensor([math.log(math.exp(rho) - 1)], dtype=torch.float64))
        assert g.tolist() == pytest.approx([(v - 1) / (1 + rho * (v - 1)) for v in w.tolist()])
        assert g[0] == 0 and bool((g.diff() > 0).all()) and float(g[-1]) < 1 / rho
    slope = bent(torch.tensor([1e-6], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)) / 1e-6
    assert float(slope) == pytest.approx(1, abs=1e-5)  # near w = 1 the offset is linear, as guidance is


def test_the_layer(unet):
    """W_out is linear, so out(w) = base + g(w) (sun - base), where sun is the unsteered adapter's output."""
    adapter = SUNW(saturation=0.5)
    adapter.attach(UNetLayers(unet))
    name, processor = next((n, p) for n, p in unet.attn_processors.items() if "attn2" in n)
    path = name.removesuffix(".processor")
    attn, rho = unet.get_submodule(path), 0.5
    assert float(torch.nn.functional.softplus(adapter.tensors()[f"{path}.guidance_saturation"]).detach()) == pytest.approx(
        rho
    )
    _, positive, negative = prompts()
    hidden = torch.randn(3, 10, attn.to_q.in_features, generator=torch.Generator().manual_seed(1))
    given = adapter.state(positive, negative, torch.tensor([1.0, 3.0, 8.0]))
    plain = PassState(negative.tokens)
    with torch.no_grad():
        base, sun, out = (processor(attn, hidden, positive.tokens, sun=s) for s in (None, plain, given))
    for row, w in enumerate((1.0, 3.0, 8.0)):
        g = (w - 1) / (1 + rho * (w - 1))
        torch.testing.assert_close(out[row], base[row] + g * (sun[row] - base[row]), atol=1e-6, rtol=1e-5)


def test_at_w_1_it_is_the_base(unet):
    base = ask(unet)
    adapter = SUNW()
    adapter.attach(UNetLayers(unet))
    torch.testing.assert_close(ask(unet, adapter, (1.0, 1.0, 1.0)), base, atol=1e-5, rtol=1e-4)
    steered = ask(unet, adapter)
    torch.testing.assert_close(steered[0], base[0], atol=1e-5, rtol=1e-4)
    assert all(not torch.allclose(steered[row], base[row], atol=1e-4) for row in (1, 2))


def test_the_negative_branch_alone(unet):
    """out(w) = (Z + P') - g(w) N' of one layer: at w = 1 SUN without its negative branch, elsewhere on the line from
    there to SUN's own output."""
    adapter = SUNW(saturation=0.5, steers="negative")
    adapter.attach(UNetLayers(unet))
    with torch.no_grad():
        for index, parameter in enumerate(adapter.sun.trainable()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    name, processor = next((n, p) for n, p in unet.attn_processors.items() if "attn2" in n)
    path, rho = name.removesuffix(".processor"), 0.5
    attn, branches = unet.get_submodule(path), adapter.sun.layers[path.replace(".", "/")]
    _, positive, negative = prompts()
    hidden = torch.randn(3, 10, attn.to_q.in_features, generator=torch.Generator().manual_seed(1))
    given = adapter.state(positive, negative, torch.tensor([1.0, 3.0, 8.0]))
    plain, blind = PassState(negative.tokens), Extended(AttnProcessor2_0(), SUNAttention(None, branches["positive"]))
    with torch.no_grad():
        sun, out = (processor(attn, hidden, positive.tokens, sun=s) for s in (plain, given))
        without = blind(attn, hidden, positive.tokens, sun=plain)
    for row, w in enumerate((1.0, 3.0, 8.0)):
        g = (w - 1) / (1 + rho * (w - 1))
        torch.testing.assert_close(out[row], without[row] + g * (sun[row] - without[row]), atol=1e-5, rtol=1e-4)


def test_the_curve_is_learnt(unet):
    adapter = SUNW()
    adapter.attach(UNetLayers(unet))
    x, positive, negative = prompts()
    state = adapter.state(positive, negative, torch.tensor([2.0, 3.0, 8.0]))
    out = UNetLayers(unet).run(state, x, 500, encoder_hidden_states=positive.tokens, return_dict=False)[0]
    out.square().mean().backward()
    assert all(curve.grad is not None and bool(curve.grad != 0) for curve in adapter.curves.values())
    assert len(adapter.curves) == len(adapter.sun.layers)


def test_its_file(unet, tiny_base_folder, tmp_path):
    adapter = SUNW(saturation=0.7, extra_positive=False)
    adapter.attach(UNetLayers(unet))
    with torch.no_grad():
        for index, parameter in enumerate(adapter.trainable()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    path = save_adapter(tmp_path / "a.safetensors", adapter, {}, dtype=torch.float32)
    other = load_base(tiny_base_folder).freeze().backbone.unet
    loaded, header = load_adapter(path, UNetLayers(other))
    assert header["adapter"] == adapter.spec and header["adapter"]["name"] == "sun_w"
    assert torch.equal(ask(other, loaded), ask(unet, adapter))
    assert loaded.steered


def test_a_saturation_that_is_not_positive_is_refused():
    with pytest.raises(ConfigError, match=r"adapter\.saturation"):
        SUNW(saturation=0.0)


def test_a_branch_that_is_not_there_cannot_be_steered():
    with pytest.raises(ConfigError, match=r"adapter\.steers"):
        SUNW(steers="negative", negative=False)
    SUNW(steers="offset", negative=False)
