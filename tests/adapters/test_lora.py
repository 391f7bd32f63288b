"""LoRA against peft, and against the formula in weights updated by hand."""

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sunlab.adapters.lora import ATTENTION, LCM, LoRA
from sunlab.adapters.merged import merged, merges
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.errors import ConfigError


@pytest.fixture
def unet(tiny_base):
    return tiny_base.freeze().backbone.unet


def ask(unet, adapter=None):
    g = torch.Generator().manual_seed(0)
    x, tokens = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 77, 16, generator=g)
    state = None if adapter is None else adapter.state(None, None, None)
    return UNetLayers(unet).run(state, x, 500, encoder_hidden_states=tokens, return_dict=False)[0]


def attached(unet, **options):
    adapter = LoRA(**{"rank": 2, **options})
    adapter.attach(UNetLayers(unet))
    return adapter


def step(unet, adapter):
    optimizer = torch.optim.SGD(adapter.trainable(), lr=1.0)
    ask(unet, adapter).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("options", [{}, {"targets": ATTENTION, "alpha": 8.0}])
def test_off_is_the_base_and_on_differs_after_a_step(unet, options):
    with torch.no_grad():
        before = ask(unet)
    adapter = attached(unet, **options)
    with torch.no_grad():
        torch.testing.assert_close(ask(unet, adapter), before, atol=1e-6, rtol=1e-5)  # B = 0 at first
    step(unet, adapter)
    with torch.no_grad():
        assert torch.equal(ask(unet), before)
        assert not torch.allclose(ask(unet, adapter), before, atol=1e-4)
        adapter.detach()
        assert torch.equal(ask(unet, adapter), before)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("targets", [ATTENTION, LCM])
def test_it_is_pefts(unet, tiny_base_folder, targets, fused, monkeypatch):
    """Names, initial values at a seed, outputs (to the bit where the update is added to a layer's output) and gradients."""
    monkeypatch.setattr("sunlab.adapters.lora.merges", lambda *_: fused)
    torch.manual_seed(7)
    adapter = attached(unet, alpha=3.0, targets=targets)
    other = load_base(tiny_base_folder).freeze().backbone.unet
    torch.manual_seed(7)
    other.add_adapter(LoraConfig(r=2, lora_alpha=3.0, target_modules=list(targets)), adapter_name="x")
    theirs = {n.replace(".x.", "."): p for n, p in other.named_parameters() if "lora_" in n}
    assert list(adapter.tensors()) == list(theirs)
    assert all(torch.equal(ours, theirs[name]) for name, ours in adapter.tensors().items())
    with torch.no_grad():
        for index, name in enumerate(theirs):
            noise = 0.1 * torch.randn(theirs[name].shape, generator=torch.Generator().manual_seed(index))
            theirs[name].add_(noise)
            adapter.tensors()[name].add_(noise)
    ours, reference = ask(unet, adapter), ask(other)
    assert torch.equal(ours, reference) or fused
    torch.testing.assert_close(ours, reference, atol=1e-6, rtol=1e-5)
    for out in (ours, reference):
        out.square().mean().backward()
    for name, parameter in adapter.tensors().items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-6, rtol=1e-4)


def test_tensors_are_named_by_layer(unet):
    names = attached(unet).tensors()
    assert "down_blocks.0.resnets.0.conv1.lora_A.weight" in names
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0.lora_B.weight" in names
    assert all(tensor.shape[0 if "lora_A" in name else 1] == 2 for name, tensor in names.items())


def test_every_target_is_hit(unet):
    adapter = attached(unet)
    hit = {name.rpartition(".lora_A")[0] for name in adapter.tensors() if ".lora_A" in name}
    for target in adapter.targets:
        assert any(name.endswith(target) for name in hit), target


def test_several_over_one_network_are_on_by_themselves(unet):
    first, second = attached(unet), attached(unet, targets=ATTENTION)
    for adapter in (first, second):
        step(unet, adapter)
    with torch.no_grad():
        outs = [ask(unet, adapter) for adapter in (None, first, second)]
    assert not any(torch.allclose(outs[a], outs[b], atol=1e-4) for a, b in ((0, 1), (0, 2), (1, 2)))
    second.detach()
    with torch.no_grad():
        assert torch.equal(ask(unet, first), outs[1])


def test_layers_replaced_since_are_noticed(unet):
    adapter = attached(unet)
    adapter.check_attached()
    attn = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    attn.to_q = torch.nn.Linear(attn.to_q.in_features, attn.to_q.out_features, bias=False)
    with pytest.raises(ConfigError, match="were replaced since"):
        adapter.check_attached()


def test_one_that_is_attached_is_not_attached_twice(unet):
    with pytest.raises(ConfigError, match="detach it first"):
        attached(unet).attach(UNetLayers(unet))


def test_the_formula(unet, tiny_base_folder):
    """W + alpha / r B A (arXiv 2106.09685, section 4.1), written into a second U-Net's linear maps and convolutions."""
    adapter = attached(unet, alpha=6.0)
    step(unet, adapter)
    other = load_base(tiny_base_folder).freeze().backbone.unet
    tensors, shapes = adapter.tensors(), set()
    with torch.no_grad():
        for name, weight in other.named_parameters():
            a, b = (tensors.pop(f"{name.removesuffix('.weight')}.lora_{end}.weight", None) for end in "AB")
            if a is not None:
                weight.add_(3.0 * torch.einsum("or,r...->o...", b.flatten(1), a))  # a convolution's B is 1x1
                shapes.add(weight.ndim)
        assert not tensors and shapes == {2, 4}
        torch.testing.assert_close(ask(unet, adapter), ask(other), atol=1e-5, rtol=1e-4)


class Single:
    """A network of one layer."""

    def __init__(self, layer):
        self.layer = layer

    def layers(self):
        return {"layer": self.layer}


KINDS = {
    "linear": lambda: (nn.Linear(96, 64), torch.randn(256, 96)),
    "convolution": lambda: (nn.Conv2d(12, 64, 3, padding=1, stride=2), torch.randn(64, 12, 4, 4)),
    "dilated": lambda: (nn.Conv2d(12, 64, (3, 1), padding=(2, 0), dilation=(2, 1), bias=False), torch.randn(16, 12, 4, 4)),
}


@pytest.fixture(params=KINDS)
def single(request):
    """A frozen layer, its input, and a LoRA on it that is on in every pass, with weights drawn."""
    layer, x = KINDS[request.param]()
    layer.requires_grad_(False)
    adapter = LoRA(rank=64, alpha=24.0, targets=("layer",))
    adapter.always = True
    adapter.attach(Single(layer))
    with torch.no_grad():
        for tensor in adapter.tensors().values():
            tensor.normal_(std=0.1)
    return layer, x, adapter


def update_of(adapter):
    (update,) = adapter.updates.values()
    return update.lora_A.weight, update.lora_B.weight


@pytest.mark.parametrize("how", ["inference", "frozen", "trained"])
@pytest.mark.parametrize(("rank", "share"), [(64, 1), (64, 32), (1, 1)])
def test_a_weight_is_merged_where_that_takes_fewer_operations(single, rank, share, how, monkeypatch):
    """By torch's own count."""
    layer, x, _ = single
    del layer.forward
    x = x[: len(x) // share].requires_grad_(how != "inference")
    adapter, counts = LoRA(rank=rank, targets=("layer",)), {}
    adapter.always = True
    for fused in (False, True):
        adapter.attach(Single(layer))
        for tensor in adapter.tensors().values():
            tensor.requires_grad_(how == "trained")
        with torch.set_grad_enabled(how != "inference"):
            chosen = merges(layer, x, *update_of(adapter))
            monkeypatch.setattr("sunlab.adapters.lora.merges", lambda *_, fused=fused: fused)
            with FlopCounterMode(display=False) as counter:
                out = layer(x)
                if how != "inference":
                    out.sum().backward()
        counts[fused] = counter.get_total_flops()
        adapter.detach()
    assert (counts[True] < counts[False]) == chosen, counts


def test_the_gradient_of_a_merged_weight(single):
    """Against the sum of weights by autograd, and a second derivative."""
    layer, x, adapter = single
    double = lambda *tensors: [t.detach().double().requires_grad_() for t in tensors]  # noqa: E731
    layer.double()
    adapter.always = False
    x, a, b = double(x, *update_of(adapter))
    mine = merged(layer, x, a, b, 0.375)
    weight = (layer.weight.flatten(1) + 0.375 * b.flatten(1) @ a.flatten(1)).view_as(layer.weight)
    reference = torch.func.functional_call(layer, {"weight": weight}, (x,))
    torch.testing.assert_close(mine, reference)
    grads = [torch.autograd.grad(out.square().sum(), (x, a, b), create_graph=True) for out in (mine, reference)]
    second = [torch.autograd.grad(sum(g.square().sum() for g in found), (x, a, b)) for found in grads]
    for found, wanted in zip((*grads[0], *second[0]), (*grads[1], *second[1]), strict=True):
        torch.testing.assert_close(found, wanted)


def test_no_merged_weight_is_kept_for_the_backward_pass(single):
    layer, x, adapter = single
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        layer(x)
    assert kept and set(kept) <= {t.data_ptr() for t in (x, layer.weight, *update_of(adapter))}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_weight_is_merged_in_half_precision(single, dtype):
    layer, x, adapter = single
    a, b = update_of(adapter)
    assert merges(layer, x, a, b) and not merges(layer.to(dtype), x.to(dtype), a.to(dtype), b.to(dtype))
    assert not merges(layer, x, a, b)  # a frozen network in half precision under a LoRA in single precision
    with torch.autocast("cpu", torch.bfloat16):
        assert not merges(layer.float(), x, a, b)


class Packed(torch.Tensor):
    """A weight that a library keeps in a form of its own, behind the type that it computes in."""


@pytest.mark.parametrize("change", ["quantised", "trained", "groups", "padding"])
def test_no_other_weight_is_merged(change):
    layer, x = nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False), torch.randn(64, 64, 4, 4)
    a, b = torch.randn(64, 64, 3, 3), torch.randn(64, 64, 1, 1)
    assert merges(layer, x, a, b)
    if change == "quantised":
        layer.weight = nn.Parameter(torch.Tensor._make_subclass(Packed, layer.weight.data), requires_grad=False)
    elif change == "trained":
        layer.bias.requires_grad_()
    elif change == "groups":
        layer.groups = 2
    else:
        layer.padding_mode = "circular"
    assert not merges(layer, x, a, b)


def test_detached_under_the_wrapper_of_another_library(single):
    """Which keeps the forward that it found, as accelerate's hooks do."""
    layer, x, adapter = single
    on, found = layer(x), layer.forward
    layer.forward = lambda *args: found(*args)
    torch.testing.assert_close(layer(x), on)
    adapter.detach()
    off = torch.func.functional_call(deepcopy(layer), dict(layer.named_parameters()), (x,))
    assert torch.equal(layer(x), off) and not torch.allclose(off, on)
    adapter.attach(Single(layer))
    torch.testing.assert_close(layer(x), on)  # once, not twice
    layer.forward = found
    adapter.detach()
    assert torch.equal(layer(x), off)
