"""LoRA through peft: in the U-Net's weights, and out again."""

import pytest
import torch

from sunlab.adapters.lora import ATTENTION, LoRA
from sunlab.backbones.pretrained import load_base
from sunlab.errors import ConfigError


@pytest.fixture
def unet(tiny_base):
    return tiny_base.freeze().backbone.unet


def ask(unet):
    g = torch.Generator().manual_seed(0)
    x, tokens = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 77, 16, generator=g)
    return unet(x, 500, encoder_hidden_states=tokens, return_dict=False)[0]


def step(unet, adapter):
    adapter.switch(True)
    optimizer = torch.optim.SGD(adapter.trainable(), lr=1.0)
    ask(unet).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("options", [{}, {"targets": ATTENTION, "alpha": 8.0}])
def test_off_is_the_base_and_on_differs_after_a_step(unet, options):
    with torch.no_grad():
        before = ask(unet)
    adapter = LoRA(rank=2, **options)
    adapter.attach(unet)
    with torch.no_grad():
        adapter.switch(True)
        torch.testing.assert_close(ask(unet), before, atol=1e-6, rtol=1e-5)  # B = 0 at first
    step(unet, adapter)
    with torch.no_grad():
        assert not torch.allclose(ask(unet), before, atol=1e-4)
        adapter.switch(False)
        assert torch.equal(ask(unet), before)
        adapter.switch(True)
        assert not torch.equal(ask(unet), before)


def test_switching_off_keeps_its_parameters_trainable(unet):
    """peft's own `disable_adapters` would take their gradients away."""
    adapter = LoRA(rank=2)
    adapter.attach(unet)
    for on in (False, True, False):
        adapter.switch(on)
        assert all(p.requires_grad for p in adapter.trainable())
    assert not any(p.requires_grad for n, p in unet.named_parameters() if "lora" not in n)


def test_tensors_are_named_by_layer(unet):
    adapter = LoRA(rank=2)
    adapter.attach(unet)
    names = adapter.tensors()
    assert "down_blocks.0.resnets.0.conv1.lora_A.weight" in names
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0.lora_B.weight" in names
    assert not any("sunlab" in name or "base_layer" in name for name in names)
    assert all(tensor.shape[0 if "lora_A" in name else 1] == 2 for name, tensor in names.items())


def test_every_target_is_hit(unet):
    adapter = LoRA(rank=2)
    adapter.attach(unet)
    hit = {name.rpartition(".lora_A")[0] for name in adapter.tensors() if ".lora_A" in name}
    for target in adapter.targets:
        assert any(name.endswith(target) for name in hit), target


def test_detach_restores_keys_and_outputs(unet):
    state = {k: v.clone() for k, v in unet.state_dict().items()}
    with torch.no_grad():
        before = ask(unet)
    adapter = LoRA(rank=2)
    adapter.attach(unet)
    step(unet, adapter)
    adapter.detach()
    after = unet.state_dict()
    assert list(after) == list(state) and all(torch.equal(after[k], state[k]) for k in state)
    with torch.no_grad():
        assert torch.equal(ask(unet), before)
    assert not hasattr(unet.down_blocks[0].resnets[0].conv1, "base_layer")


def test_a_second_one_is_refused(unet):
    LoRA(rank=2).attach(unet)
    with pytest.raises(ConfigError, match="detach it first"):
        LoRA(rank=2).attach(unet)


def test_the_formula(unet, tiny_base_folder):
    """W + alpha / r B A (arXiv 2106.09685, section 4.1), written into a second U-Net's linear maps and convolutions."""
    adapter = LoRA(rank=2, alpha=6.0)
    adapter.attach(unet)
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
        torch.testing.assert_close(ask(unet), ask(other), atol=1e-5, rtol=1e-4)
