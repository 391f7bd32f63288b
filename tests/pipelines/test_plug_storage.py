"""Networks whose weights are stored otherwise than computed with: quantised, cast to eight bits, offloaded."""

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from tiny_pipelines import NEGATIVES, latents, pipeline
from torch import nn

import sunlab
from sunlab.adapters.sun import SUN
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.errors import ConfigError

LEVELS = 255


class Packed(nn.Linear):
    """A quantised layer as bitsandbytes' four-bit ones are: bytes in one column, which the layer's own forward reads."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        low, high = layer.weight.min().item(), layer.weight.max().item()
        self.low, self.step, self.bias = low, (high - low) / LEVELS, layer.bias
        codes = ((layer.weight.detach() - low) / self.step).round().to(torch.uint8)
        self.weight = nn.Parameter(codes.reshape(-1, 1), requires_grad=False)

    def dequantised(self) -> torch.Tensor:
        return self.weight.float().mul(self.step).add(self.low).reshape(self.out_features, self.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.dequantised().to(x.dtype), self.bias)


class Int8(nn.Linear):
    """A quantised layer in the weight's own shape, with a scale for each output."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.scale, self.bias = layer.weight.detach().abs().amax(1, keepdim=True) / 127, layer.bias
        self.weight = nn.Parameter((layer.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def dequantised(self) -> torch.Tensor:
        return self.weight.float() * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.dequantised().to(x.dtype), self.bias)


def drawn(pipe):
    return latents(pipe, negative=NEGATIVES if pipe._sunlab.adapter.uses_negative else None)


def quantise(unet, kind, *, keep=True):
    """The attention layers quantised; without `keep`, plain layers with the weights that the quantised ones state."""
    for name, layer in list(unet.named_modules()):
        if type(layer) is nn.Linear and ".attn" in name:
            parent, _, leaf = name.rpartition(".")
            new = kind(layer)
            if keep:
                setattr(unet.get_submodule(parent), leaf, new)
            else:
                layer.weight.data.copy_(new.dequantised())


@pytest.mark.parametrize("kind", [Packed, Int8])
@pytest.mark.parametrize(("adapter", "when"), [("sun_file", "before"), ("sun_file", "after"), ("lora_file", "before")])
def test_quantised_layers(when, kind, adapter, tiny_base_folder, request):
    """The same as over plain layers with the dequantised weights."""
    file = request.getfixturevalue(adapter)
    plain = pipeline(tiny_base_folder)
    quantise(plain.unet, kind, keep=False)
    pipe = pipeline(tiny_base_folder)
    for step in ("plug", "quantise") if when == "after" else ("quantise", "plug"):
        if step == "plug":
            sunlab.plug(pipe, file)
        else:
            quantise(pipe.unet, kind)
    torch.testing.assert_close(drawn(pipe), drawn(sunlab.plug(plain, file)), atol=1e-4, rtol=1e-4)


def test_layers_replaced_under_a_lora_are_noticed(pipe, lora_file):
    sunlab.plug(pipe, lora_file)
    quantise(pipe.unet, Int8)
    with pytest.raises(ConfigError, match="detach it and attach it again"):
        drawn(pipe)


@pytest.mark.parametrize("kind", [Packed, Int8])
def test_the_initial_branches_are_the_dequantised_projections(kind, pipe):
    quantise(pipe.unet, kind)
    adapter = SUN()
    adapter.attach(UNetLayers(pipe.unet))
    tensors = adapter.tensors()
    for path, layer in UNetLayers(pipe.unet).text_attention().items():
        torch.testing.assert_close(tensors[f"{path}.to_k_neg.weight"], layer.to_k.dequantised(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(tensors[f"{path}.to_v_neg.weight"], layer.to_v.dequantised(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("adapter", ["sun_file", "lora_file"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_eight_bit_storage(when, adapter, tiny_base_folder, request):
    file = request.getfixturevalue(adapter)
    plain = drawn(sunlab.plug(pipeline(tiny_base_folder), file))
    pipe = pipeline(tiny_base_folder)
    for step in ("plug", "cast") if when == "after" else ("cast", "plug"):
        if step == "plug":
            sunlab.plug(pipe, file)
        else:
            pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert float((drawn(pipe) - plain).square().mean().sqrt() / plain.std()) < 0.2


@pytest.mark.parametrize("adapter", ["sun_file", "lora_file"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_sequential_offload(when, adapter, tiny_base_folder, request):
    """accelerate's hooks keep the weights on the meta device between calls, and load each layer's for its own."""
    file = request.getfixturevalue(adapter)
    plain = drawn(sunlab.plug(pipeline(tiny_base_folder), file))
    pipe = pipeline(tiny_base_folder)
    for step in ("plug", "offload") if when == "after" else ("offload", "plug"):
        if step == "plug":
            sunlab.plug(pipe, file)
        else:
            cpu_offload(pipe.unet, torch.device("cpu"), offload_buffers=True)
    assert any(p.is_meta for p in pipe.unet.parameters())
    for _ in range(2):
        torch.testing.assert_close(drawn(pipe), plain, atol=1e-5, rtol=1e-4)
    sunlab.unplug(pipe)
    remove_hook_from_module(pipe.unet, recurse=True)
