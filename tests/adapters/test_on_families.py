"""The contract of adapters over tiny transformers of every family, each pair of an adapter and a family."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_pixart import tiny_pixart

from sunlab.adapters import ADAPTERS
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd3.tiny import write_tiny as tiny_sd3
from sunlab.testing import AdapterContract
from sunlab.types import Conditioning

LORA = {"rank": 2, "targets": ("to_q", "to_k", "to_v", "add_k_proj", "to_out.0", "net.2", "proj_out")}
SPECS: dict[str, Any] = {
    "sun": {"name": "sun"},
    "sun_w": {"name": "sun_w"},
    "sun_lora": {"name": "sun_lora", **LORA},
    "lora": {"name": "lora", **LORA},
    "agd": {"name": "agd", "hidden": 8},
    "nag": {"name": "nag"},
    "vsf": {"name": "vsf"},
    "nag over sun": {"name": "nag", "inner": "sun"},
}
USUAL = ("sun_w", "sun_lora", "lora", "nag")
"""Tested by default where a family's layers are its own; PixArt's are those of the U-Net, which `AdapterContract` walks, and
Wan's those of SANA."""
FAMILIES = {
    "pixart": lambda folder: tiny_pixart(folder, "flow"),
    "sana": BACKBONES.get("sana").factory.write_tiny,
    "sd3": lambda folder: tiny_sd3(folder, t5=False),
    "wan": BACKBONES.get("wan").factory.write_tiny,
}
BACKBONE = {"wan": {"name": "wan", "frames": 5, "height": 32, "width": 16}}
"""Family -> its parameters, where tiny latents need some."""
LENGTH = 7


@pytest.fixture(scope="module")
def frozen(request, tmp_path_factory):
    """A backbone that no test changes."""
    folder = FAMILIES[request.param](tmp_path_factory.mktemp(request.param) / "base")
    return load_base(folder, backbone=BACKBONE.get(request.param)).freeze().backbone


class OnFamilies(AdapterContract):
    __test__ = False
    frozen: Any

    @pytest.fixture(autouse=True)
    def _over_each_network(self, frozen) -> None:
        self.network, self.frozen = "transformer", frozen

    def backbone(self, *, checkpointing: bool = False):
        backbone = deepcopy(self.frozen)
        if checkpointing:
            backbone.enable_checkpointing()
        return backbone

    def prompts(self, seed: int) -> Conditioning:
        """Three that end in padding where the family masks it."""
        generator, blank = torch.Generator().manual_seed(seed), self.frozen.blank(3)
        tokens = torch.randn(3, LENGTH, blank.tokens.shape[2], generator=generator)
        pooled = None if blank.pooled is None else torch.randn(blank.pooled.shape, generator=generator)
        mask = torch.arange(LENGTH) < torch.tensor([5, 4, 3])[:, None] if self.frozen.masked else None
        return Conditioning(tokens, pooled, blank.added, mask)

    def test_a_trimmed_state_gives_the_same_pass(self) -> None:
        """Padding that nothing attends to may be left out, in prompts of unequal length too."""
        backbone, adapter = self.attached()
        words = torch.arange(LENGTH) < torch.tensor([2, 6, 4])[:, None]
        positive, negative = self.prompts(1), self.prompts(2)
        if not self.frozen.masked:
            positive, negative = replace(positive, words=words), replace(negative, words=words.roll(1, 0))
        x = torch.randn(3, *backbone.sample_shape, generator=torch.Generator().manual_seed(3))
        t = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
        with torch.no_grad():
            state = adapter.state(positive, negative, torch.tensor([2.0, 4.0, 8.0]))
            wanted = backbone.predict(x, t, positive, state)
            torch.testing.assert_close(backbone.predict(x, t, positive, state.trimmed()), wanted, atol=1e-5, rtol=1e-4)


for _name, _spec in SPECS.items():
    _tested = {"sun": ("pixart", "sana", "sd3")}
    _usual = _tested.get(_name, ("sana", "sd3") if _name in USUAL else ())
    _all = [pytest.param(family, marks=[] if family in _usual else [pytest.mark.slow]) for family in FAMILIES]
    _members = {"__test__": True, "component": _spec, "__module__": __name__}
    _made = type(f"Test_{_name}", (OnFamilies,), _members)
    globals()[f"Test_{_name.replace(' ', '_')}"] = pytest.mark.parametrize("frozen", _all, indirect=True)(_made)


@pytest.mark.parametrize("frozen", ["sd3"], indirect=True)
def test_the_same_prompt_twice_leaves_the_base(frozen):
    """Initialised from one projection, P' and N' of one prompt are equal: both branches see tokens of one kind."""
    backbone, sun, maker = deepcopy(frozen), ADAPTERS.build("sun"), OnFamilies()
    maker.frozen = frozen
    prompts = replace(maker.prompts(1), words=torch.arange(LENGTH) < torch.tensor([2, 6, 4])[:, None])
    x, t = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.9, 0.5, 0.3])
    wanted = backbone.predict(x, t, prompts)
    sun.attach(backbone)
    out = backbone.predict(x, t, prompts, sun.state(prompts, prompts, torch.ones(3)))
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
