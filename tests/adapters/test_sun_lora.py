"""`sun_lora` against SUN in a U-Net whose weights were updated by hand: W + (alpha / r) B A."""

import pytest
import torch

from sunlab.adapters.lora import ATTENTION
from sunlab.adapters.sun import SUN
from sunlab.adapters.sun_lora import SUNLoRA
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.errors import ConfigError
from sunlab.export import load_adapter, save_adapter
from sunlab.types import Conditioning


@pytest.fixture
def unet(tiny_base):
    return tiny_base.freeze().backbone.unet


def ask(unet, adapter):
    g = torch.Generator().manual_seed(0)
    x, positive, negative = (torch.randn(2, *shape, generator=g) for shape in ((4, 8, 8), (77, 16), (77, 16)))
    state = adapter.state(Conditioning(positive), Conditioning(negative), torch.tensor([2.0, 4.0]))
    with torch.no_grad():
        return UNetLayers(unet).run(state, x, 500, encoder_hidden_states=positive, return_dict=False)[0]


def moved(adapter):
    with torch.no_grad():
        for index, parameter in enumerate(adapter.trainable()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))


def test_it_is_sun_in_an_updated_unet(unet, tiny_base_folder):
    adapter = SUNLoRA(rank=3, alpha=6.0, targets=(*ATTENTION, "ff.net.2"))
    adapter.attach(UNetLayers(unet))
    moved(adapter)
    other = load_base(tiny_base_folder).freeze().backbone.unet
    sun, tensors = SUN(), adapter.tensors()
    sun.attach(UNetLayers(other))
    updated = 0
    with torch.no_grad():
        for name, parameter in sun.tensors().items():
            parameter.copy_(tensors.pop(name))
        for name, parameter in other.named_parameters():
            a, b = (tensors.pop(f"{name.removesuffix('.weight')}.lora_{end}.weight", None) for end in "AB")
            if a is not None:
                parameter.add_(6.0 / 3 * b @ a)
                updated += 1
    assert not tensors and updated
    torch.testing.assert_close(ask(unet, adapter), ask(other, sun), atol=1e-5, rtol=1e-4)


def test_at_first_it_is_sun(unet, tiny_base_folder):
    """B starts at 0, and SUN's projections are copies of the base's."""
    adapter, sun = SUNLoRA(), SUN()
    adapter.attach(UNetLayers(unet))
    other = load_base(tiny_base_folder).freeze().backbone.unet
    sun.attach(UNetLayers(other))
    torch.testing.assert_close(ask(unet, adapter), ask(other, sun), atol=1e-6, rtol=1e-5)


def test_one_file_holds_both(unet, tiny_base_folder, tmp_path):
    adapter = SUNLoRA(rank=2, targets=ATTENTION, init="identity")
    adapter.attach(UNetLayers(unet))
    moved(adapter)
    path = save_adapter(tmp_path / "a.safetensors", adapter, {}, dtype=torch.float32)
    other = load_base(tiny_base_folder).freeze().backbone.unet
    loaded, header = load_adapter(path, UNetLayers(other))
    assert header["adapter"]["name"] == "sun_lora" and header["adapter"]["rank"] == 2
    names = list(loaded.tensors())
    assert any(n.endswith("to_k_neg.weight") for n in names) and any(n.endswith("lora_A.weight") for n in names)
    torch.testing.assert_close(ask(other, loaded), ask(unet, adapter))


def test_a_failed_attachment_leaves_no_trace(unet):
    adapter, before = SUNLoRA(targets=("nowhere",)), dict(unet.attn_processors)
    with pytest.raises(ConfigError, match=r"adapter\.targets: no layer .* nowhere"):
        adapter.attach(UNetLayers(unet))
    assert unet.attn_processors == before
