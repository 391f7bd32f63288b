"""The contract of adapters over Stable Diffusion 3.5's joint attention."""

from copy import deepcopy
from typing import Any, ClassVar

import pytest
import torch
from tiny_sd3 import CLIPS, JOINT, tiny_sd3

from sunlab.adapters import ADAPTERS
from sunlab.backbones.pretrained import load_base
from sunlab.errors import ConfigError
from sunlab.testing import AdapterContract
from sunlab.types import Conditioning

LINEAR = ("to_q", "to_k", "to_v", "add_k_proj", "to_out.0", "net.2")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A backbone that no test changes."""
    return load_base(tiny_sd3(tmp_path_factory.mktemp("sd3") / "base", t5=False)).freeze().backbone


class OnSD3(AdapterContract):
    __test__ = False

    @pytest.fixture(params=["sd3"], autouse=True)
    def _over_each_network(self, request: pytest.FixtureRequest, frozen) -> None:
        self.network, self.frozen = request.param, frozen

    def backbone(self, *, checkpointing: bool = False):
        backbone = deepcopy(self.frozen)
        if checkpointing:
            backbone.enable_checkpointing()
        return backbone

    def prompts(self, seed: int) -> Conditioning:
        generator = torch.Generator().manual_seed(seed)
        shapes = (3, 7, JOINT), (3, sum(CLIPS))
        return Conditioning(*(torch.randn(shape, generator=generator) for shape in shapes))


class TestSUN(OnSD3):
    __test__ = True
    component: ClassVar[Any] = "sun"


class TestSUNW(OnSD3):
    __test__ = True
    component: ClassVar[Any] = "sun_w"


class TestSUNLoRA(OnSD3):
    __test__ = True
    component: ClassVar[Any] = {"name": "sun_lora", "targets": LINEAR}


class TestLoRA(OnSD3):
    __test__ = True
    component: ClassVar[Any] = {"name": "lora", "rank": 4, "targets": LINEAR}


def test_the_same_prompt_twice_leaves_the_base(frozen):
    """Initialised from one projection, P' and N' of one prompt are equal: both branches see tokens of one kind."""
    backbone, sun = deepcopy(frozen), ADAPTERS.build("sun")
    prompts = OnSD3().prompts(1)
    x, t = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.9, 0.5, 0.3])
    wanted = backbone.predict(x, t, prompts)
    sun.attach(backbone)
    out = backbone.predict(x, t, prompts, sun.state(prompts, prompts, torch.ones(3)))
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("adapter", ["nag", "vsf"])
def test_what_is_defined_for_cross_attention_is_refused(frozen, adapter):
    backbone = deepcopy(frozen)
    with pytest.raises(ConfigError, match=r"transformer_blocks\.0\.attn is joint attention.*use sun"):
        ADAPTERS.build(adapter).attach(backbone)
    assert not any(layer.extended for layer in backbone.text_attention().values())
