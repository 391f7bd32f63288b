"""All prompts of a layer in one kernel call, as on a GPU, beside a call for each: the same pictures."""

from copy import deepcopy
from dataclasses import replace
from itertools import product

import pytest
import torch
from tiny_pixart import tiny_pixart

from sunlab.adapters import ADAPTERS, joined
from sunlab.adapters.strength import Strength
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd3.tiny import write_tiny as tiny_sd3
from sunlab.testing import AdapterContract
from sunlab.testing.adapter import attach_moved

OPTIONS = [
    dict(zip(("extra_positive", "normalise", "scale"), values, strict=True)) for values in product([True, False], repeat=3)
]
LENGTH, ROWS = 7, 2


@pytest.fixture(scope="module")
def networks(tmp_path_factory, tiny_base_folder):
    """Frozen backbones, by family."""
    made = {"sd": lambda folder: tiny_base_folder, "pixart": lambda folder: tiny_pixart(folder, "flow")}
    made["sana"] = lambda folder: BACKBONES.get("sana").factory.write_tiny(folder) or folder
    made["sd3"] = lambda folder: tiny_sd3(folder, t5=False)
    return {name: load_base(make(tmp_path_factory.mktemp(name) / "base")).freeze().backbone for name, make in made.items()}


@pytest.fixture(params=[False, True], ids=["apart", "joined"])
def together(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(joined, "APART", frozenset())
    return request.param


def attached(backbone, spec):
    adapter = ADAPTERS.build(spec)
    attach_moved(adapter, backbone)
    return adapter


def prompts(backbone, seed, masked):
    """Two prompts of unequal length, and of another for each seed, where the network takes a mask."""
    blank = backbone.blank(ROWS)
    tokens = torch.randn(ROWS, LENGTH, blank.tokens.shape[-1], generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor([LENGTH - 1, LENGTH - 2 - seed])
    mask = torch.arange(LENGTH)[None] < lengths[:, None] if masked else None
    pooled = None if blank.pooled is None else torch.ones_like(blank.pooled)
    return replace(blank, tokens=tokens, mask=mask, pooled=pooled)


def drawn(backbone, adapter, positive, negative, *, scale=1.0, passes=2):
    """The network's outputs in a generation, prompts trimmed as samplers do."""
    x = torch.randn(ROWS, *backbone.sample_shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        state = Strength(scale=scale).on(adapter.state(positive, negative, torch.tensor([2.0, 6.0])))
        times = torch.linspace(1, 0.5, passes, dtype=torch.float64)
        return torch.stack([backbone.predict(x, time.expand(ROWS), positive, state) for time in times])


def both(monkeypatch, backbone, spec, masked, **given):
    """Drawn apart and joined."""
    outputs = []
    for apart in (frozenset({"cpu"}), frozenset()):
        monkeypatch.setattr(joined, "APART", apart)
        network = deepcopy(backbone)
        adapter = attached(network, spec)
        outputs.append(drawn(network, adapter, prompts(network, 1, masked), prompts(network, 2, masked), **given))
    return outputs


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: " ".join(k for k, v in o.items() if v) or "bare")
@pytest.mark.parametrize("family", ["sd", "pixart", "sd3"])
def test_the_pictures_are_those_of_separate_calls(family, options, networks, monkeypatch):
    apart, together = both(monkeypatch, networks[family], {"name": "sun", **options}, family == "pixart", scale=0.7)
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=2e-4)


def test_prompts_of_unequal_length_without_masks(networks, monkeypatch):
    outputs = []
    for apart in (frozenset({"cpu"}), frozenset()):
        monkeypatch.setattr(joined, "APART", apart)
        network = deepcopy(networks["sd"])
        positive, negative = prompts(network, 1, masked=False), prompts(network, 2, masked=False)
        outputs.append(drawn(network, attached(network, "sun"), positive, replace(negative, tokens=negative.tokens[:, :3])))
    torch.testing.assert_close(outputs[1], outputs[0], atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("spec", ["sun_w", {"name": "sun_w", "steers": "negative"}, {"name": "sun_lora", "rank": 2}, "nag"])
@pytest.mark.parametrize("normalise", [True, False])
def test_adapters_over_sun(spec, normalise, networks, monkeypatch):
    spec = {"name": spec} if isinstance(spec, str) else dict(spec)
    inner = {"normalise": normalise}
    spec |= {"inner": {"name": "sun", **inner}} if spec["name"] == "nag" else inner
    apart, together = both(monkeypatch, networks["sana"], spec, True)
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=2e-4)


def test_a_branch_of_zeros_adds_nothing(networks, monkeypatch):
    monkeypatch.setattr(joined, "APART", frozenset())
    network = deepcopy(networks["sd"])
    adapter = attached(network, {"name": "sun", "extra_positive": False, "scale": False})
    positive, negative = prompts(network, 1, masked=False), prompts(network, 2, masked=False)
    with torch.no_grad():
        for tensor in adapter.tensors().values():
            tensor.zero_()
        plain = network.predict(torch.ones(ROWS, *network.sample_shape), torch.ones(ROWS, dtype=torch.float64), positive)
        state = adapter.state(positive, negative, torch.ones(ROWS))
        out = network.predict(
            torch.ones(ROWS, *network.sample_shape), torch.ones(ROWS, dtype=torch.float64), positive, state
        )
    torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["sd", "pixart", "sana", "sd3"])
def test_keys_are_computed_once_a_generation(family, together, networks):
    """Also by networks that project the prompt in every pass; of other prompts they are computed anew."""
    network = deepcopy(networks[family])
    adapter = attached(network, "sun")
    calls = []
    for layer in network.text_attention().values():
        layer.to_k.register_forward_hook(lambda *_: calls.append("own"))
    for branches in adapter.layers.values():
        for branch in branches.values():
            branch.to_k.register_forward_hook(lambda *_: calls.append("branch"))
    masked = family in ("pixart", "sana")
    positive, negative = prompts(network, 1, masked), prompts(network, 2, masked)
    layers = len(network.text_attention())
    drawn(network, adapter, positive, negative, passes=3)
    own = 3 * layers if family == "sd3" else layers  # joint attention carries the prompt through the blocks
    assert (calls.count("own"), calls.count("branch")) == (own, 2 * layers)
    with torch.no_grad():
        state = adapter.state(positive, negative, torch.ones(ROWS))
        x, t = torch.ones(ROWS, *network.sample_shape), torch.ones(ROWS, dtype=torch.float64)
        first = network.predict(x, t, positive, state)
        positive.tokens.mul_(-1)  # in place
        changed = network.predict(x, t, positive, state)
        other = replace(positive, tokens=positive.tokens.neg())  # the first ones again, in another tensor
        again = network.predict(x, t, other, state)
    assert not torch.allclose(first, changed)
    torch.testing.assert_close(again, first)


class TestTogether(AdapterContract):
    component = "sun"

    @pytest.fixture(autouse=True)
    def _together(self, monkeypatch) -> None:
        monkeypatch.setattr(joined, "APART", frozenset())
