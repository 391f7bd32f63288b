"""The layers of transformers that hand theirs no keyword arguments: a branch beside them attends as they do."""

from dataclasses import replace

import pytest
import torch

from sunlab.adapters import ADAPTERS
from sunlab.backbones.pretrained import load_base
from sunlab.draws import Draws

FAMILIES = {"sana": {}, "wan": {"frames": 5, "height": 32, "width": 16}}
PROMPTS, SEEDS = ["A pizza ", "a very large tiger"], [3, 4]


@pytest.fixture(params=FAMILIES)
def base(request, tiny_family):
    return load_base(tiny_family(request.param), backbone={"name": request.param, **FAMILIES[request.param]}).freeze()


def test_a_branch_attends_as_the_layer_does_to_its_own_prompt_and_mask(base):
    """With the layer's own weights, norms included, P' and N' over one prompt are equal, and leave the base unchanged. A
    branch attends to padding where the layer does."""
    adapter = ADAPTERS.build({"name": "sun", "extra_positive": True, "normalise": False})
    plain, backbone = base.encode(PROMPTS), base.backbone
    words = plain.words if plain.mask is None else plain.mask
    x, t = Draws(SEEDS).normal("x", backbone.sample_shape), torch.full((2,), 0.7, dtype=torch.float64)

    def value(negative):
        return backbone.predict(x, t, plain, adapter.state(plain, negative, torch.full((2,), 3.0)))

    with torch.no_grad():
        adapter.attach(backbone)
        for layer in backbone.text_attention().values():  # the branches have no bias
            layer.attn.to_k.bias.zero_(), layer.attn.to_v.bias.zero_()
        unbiased, same = backbone.predict(x, t, plain), value(plain)
        padded = value(replace(plain, tokens=plain.tokens.masked_fill(~words[..., None], 9.0)))
        seen = value(replace(plain, mask=None))
    torch.testing.assert_close(same, unbiased, atol=1e-5, rtol=1e-4)
    if plain.mask is None:
        assert not torch.allclose(padded, unbiased, atol=1e-4)
    else:
        torch.testing.assert_close(padded, unbiased, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(seen, unbiased, atol=1e-4), "the negative prompt's own mask"


def test_keys_are_normed_over_all_heads(base):
    layer = next(iter(base.backbone.text_attention().values()))
    weight, eps = layer.attn.norm_k.weight, layer.attn.norm_k.eps
    key = torch.randn(2, layer.heads, 5, layer.width // layer.heads, generator=torch.Generator().manual_seed(0))
    joint = key.transpose(1, 2).flatten(2)
    wanted = joint / (joint.square().mean(-1, keepdim=True) + eps).sqrt() * weight
    torch.testing.assert_close(layer.norm_k(key).transpose(1, 2).flatten(2), wanted, atol=1e-5, rtol=1e-4)
