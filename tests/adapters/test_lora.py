"""LoRA against peft, and against the formula in weights updated by hand."""

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sunlab.adapters.lora import ATTENTION, LCM, LoRA, Update
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


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("targets", [ATTENTION, LCM])
def test_it_is_pefts(unet, tiny_base_folder, targets, merged, monkeypatch):
    """Names, initial values at a seed, outputs (to the bit where the update is added to a layer's output) and gradients."""
    monkeypatch.setattr(Update, "merges", lambda *_: merged)
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
    assert torch.equal(ours, reference) or merged
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


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(("rank", "rows", "chosen"), [(64, 256, True), (64, 8, False), (1, 256, None)])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_weight_is_merged_where_that_takes_fewer_operations(kind, rank, rows, chosen, grad, monkeypatch):
    """By torch's own count; `chosen` None: where there is no backward pass."""
    layer = nn.Linear(96, 64) if kind == "linear" else nn.Conv2d(12, 64, 3, padding=1, stride=2)
    layer.requires_grad_(False)
    chosen = not grad if chosen is None else chosen
    x = torch.randn(rows, 96) if kind == "linear" else torch.randn(rows // 4, 12, 4, 4)
    update = Update(layer, rank)
    with torch.set_grad_enabled(grad):
        assert update.merges(layer, x) == chosen
    counts = {}
    for merged in (False, True):
        monkeypatch.setattr(Update, "merges", lambda *_, merged=merged: merged)
        adapter, own = LoRA(rank=rank, targets=("layer",)), deepcopy(layer)
        adapter.always = True
        adapter.attach(Single(own))
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(grad):
            out = own(x.clone().requires_grad_(grad))
            if grad:
                out.sum().backward()
        counts[merged] = counter.get_total_flops()
        adapter.detach()
        assert "forward" not in vars(own)
    assert (counts[True] < counts[False]) == chosen, counts


class Single:
    """A network of one layer."""

    def __init__(self, layer):
        self.layer = layer

    def layers(self):
        return {"layer": self.layer}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_weight_is_merged_in_half_precision(dtype):
    layer, x = nn.Linear(96, 64), torch.randn(256, 96)
    update = Update(layer, 64)
    assert update.merges(layer, x) and not update.to(dtype).merges(layer.to(dtype), x.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert not update.float().merges(layer.float(), x)
