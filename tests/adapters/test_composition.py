"""Adapters on top of each other in one U-Net: nobody takes away what is not theirs."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from sunlab.adapters.nag import NAG
from sunlab.adapters.sun import SUN
from sunlab.adapters.sun_w import SUNW
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.errors import ConfigError


@pytest.fixture
def unet(tiny_base):
    return tiny_base.freeze().backbone.unet


@pytest.mark.parametrize("kind", [SUN, SUNW, NAG])
def test_what_stands_below_stays_until_the_upper_is_gone(kind, unet):
    before = dict(unet.attn_processors)
    lower, upper = kind(), NAG()
    lower.attach(UNetLayers(unet))
    between = dict(unet.attn_processors)
    upper.attach(UNetLayers(unet))
    stacked = dict(unet.attn_processors)
    with pytest.raises(ConfigError, match=r"another adapter is attached on top of this one .*; detach that one first"):
        lower.detach()
    assert unet.attn_processors == stacked
    upper.detach()
    assert unet.attn_processors == between
    lower.detach()
    assert unet.attn_processors == before
    lower.attach(UNetLayers(unet))
    lower.detach()
    assert unet.attn_processors == before


@pytest.mark.parametrize("adapter", [SUN(), SUNW(), NAG(), NAG(inner="sun")], ids=["sun", "sun_w", "nag", "nag over sun"])
def test_a_processor_that_somebody_set_meanwhile_is_theirs(adapter, unet):
    before = dict(unet.attn_processors)
    adapter.attach(UNetLayers(unet))
    name = next(n for n in before if "attn2" in n)
    theirs = AttnProcessor()
    unet.set_attn_processor({**unet.attn_processors, name: theirs})
    adapter.detach()
    assert unet.attn_processors == {**before, name: theirs}


@pytest.mark.parametrize("adapter", [SUN(), NAG(), NAG(inner="sun")], ids=["sun", "nag", "nag over sun"])
def test_a_processor_that_nobody_knows_is_refused(adapter, unet):
    class Strange:
        def __call__(self, attn: torch.nn.Module, hidden_states, encoder_hidden_states=None, attention_mask=None):
            return hidden_states

    unet.set_attn_processor(Strange())
    found = dict(unet.attn_processors)
    with pytest.raises(ConfigError, match="runs Strange, which an adapter cannot be composed with"):
        adapter.attach(UNetLayers(unet))
    assert unet.attn_processors == found


def test_sun_does_not_stand_on_another_of_ours(unet):
    NAG().attach(UNetLayers(unet))
    found = dict(unet.attn_processors)
    with pytest.raises(ConfigError, match=r"another adapter of sunlab is attached to this network.*detach it first"):
        SUN().attach(UNetLayers(unet))
    assert unet.attn_processors == found
