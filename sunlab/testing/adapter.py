"""The contract of an adapter."""

import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from sunlab.backbones import Backbone
from sunlab.backbones.sd.family import StableDiffusion
from sunlab.diffusion.path import DiscreteVP
from sunlab.export import attach_untrained, load_adapter, save_adapter
from sunlab.export.shapes import describe_base
from sunlab.testing.component import ComponentContract
from sunlab.testing.toy_backbone import ToyBackbone, toy_base
from sunlab.types import Conditioning

TEXT_WIDTH, LENGTH = 8, 7


class AdapterContract(ComponentContract):
    """Off, the network is the base to the bit; on, each sample sees its own prompts and the adapter alone learns. The state
    belongs to the pass: in threads, and where activations are recomputed. Over Stable Diffusion's U-Net, and over the toy,
    whose layers receive the prompt through a projection and with a mask."""

    kind: ClassVar[str] = "adapters"
    network: str

    @pytest.fixture(params=["unet", "toy"], autouse=True)
    def _over_each_network(self, request: pytest.FixtureRequest) -> None:
        self.network = request.param

    def backbone(self, *, checkpointing: bool = False) -> Backbone:
        """A frozen backbone with text attention, the same in every call."""
        if self.network == "toy":
            backbone: Backbone = toy_base().freeze().backbone
        else:
            backbone = StableDiffusion(deepcopy(_tiny_unet()), DiscreteVP.from_betas(), "epsilon")
        if checkpointing:
            backbone.enable_checkpointing()
        return backbone

    def prompts(self, seed: int) -> Conditioning:
        """Three prompts; those of the toy end in padding."""
        tokens = torch.randn(3, LENGTH, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))
        return Conditioning(tokens, mask=_mask() if self.network == "toy" else None)

    def forward(
        self,
        backbone: Backbone,
        adapter: Any | None = None,
        rows: slice = slice(None),
        positive: Conditioning | None = None,
        negative: Conditioning | None = None,
    ) -> Tensor:
        """The backbone's output (B, C, H, W), with the adapter on where one is given."""
        x = torch.randn(3, *backbone.sample_shape, generator=torch.Generator().manual_seed(3))[rows]
        w = torch.tensor([2.0, 4.0, 8.0])[rows]
        positive = (self.prompts(1) if positive is None else positive)[rows]
        negative = (self.prompts(2) if negative is None else negative)[rows]
        state = None if adapter is None else adapter.state(positive, negative, w)
        return backbone.predict(x, torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)[rows], positive, state)

    def attached(self, *, checkpointing: bool = False) -> tuple[Backbone, Any]:
        """Backbone and adapter, the adapter's parameters moved off their initial values."""
        backbone, adapter = self.backbone(checkpointing=checkpointing), self.build()
        attach_moved(adapter, backbone)
        return backbone, adapter

    def test_off_is_the_base_to_the_bit(self) -> None:
        backbone, adapter = self.attached()
        self.forward(backbone, adapter)
        assert torch.equal(self.forward(backbone), self.forward(self.backbone()))

    def test_detached_leaves_no_trace(self) -> None:
        backbone, base = self.backbone(), self.backbone().requires_grad_(True)
        backbone.requires_grad_(True)
        adapter = self.build()
        adapter.attach(backbone)
        self.forward(backbone, adapter)
        adapter.detach()
        assert torch.equal(self.forward(backbone), self.forward(base))
        before, after = base.state_dict(), backbone.state_dict()
        assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)
        assert all(parameter.requires_grad for parameter in backbone.parameters())
        assert [type(module) for module in base.modules()] == [type(module) for module in backbone.modules()]

    def test_on_it_has_an_effect(self) -> None:
        backbone, adapter = self.attached()
        out = self.forward(backbone, adapter)
        assert bool(out.isfinite().all()) and not torch.allclose(out, self.forward(self.backbone()))

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        backbone, adapter = self.attached()
        together = self.forward(backbone, adapter)
        for i in range(3):
            row = slice(i, i + 1)
            torch.testing.assert_close(together[row], self.forward(backbone, adapter, row), atol=1e-5, rtol=1e-4)

    def test_the_adapter_learns_and_the_base_does_not(self) -> None:
        backbone, adapter = self.attached()
        own = {id(p) for p in adapter.trainable()}
        if not own:
            return  # a training-free adapter
        for parameter in adapter.trainable():
            assert parameter.requires_grad
        self.forward(backbone, adapter).square().mean().backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in adapter.trainable())
        assert all(p.grad is None and not p.requires_grad for p in backbone.parameters() if id(p) not in own)

    def test_threads_over_one_network_do_not_see_each_other(self) -> None:
        backbone, adapter = self.attached()
        with torch.no_grad():
            wanted = {on: self.forward(backbone, adapter if on else None) for on in (True, False)}
            meet = threading.Barrier(2)

            def run(on: bool) -> list[bool]:
                meet.wait()
                return [torch.equal(self.forward(backbone, adapter if on else None), wanted[on]) for _ in range(8)]

            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(lambda on: _no_grad(run, on), (True, False)))
        assert all(all(each) for each in found)

    def test_recomputed_activations_are_of_the_same_pass(self) -> None:
        """The base runs in between, and the backward pass in another thread."""
        grads = []
        for checkpointing in (False, True):
            backbone, adapter = self.attached(checkpointing=checkpointing)
            if not adapter.trainable():
                return
            backbone.train()
            loss = self.forward(backbone, adapter).square().mean()
            self.forward(backbone)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(loss.backward).result()
            grads.append([p.grad for p in adapter.trainable()])
        for plain, recomputed in zip(*grads, strict=True):
            torch.testing.assert_close(plain, recomputed, atol=1e-7, rtol=1e-5)

    def test_tensors_survive_a_round_trip(self) -> None:
        """The tensors are the whole of what is learned: put into a fresh adapter they give the same output."""
        backbone, adapter = self.attached()
        fresh_backbone, fresh = self.backbone(), self.build()
        fresh.attach(fresh_backbone)
        assert list(fresh.tensors()) == list(adapter.tensors())
        with torch.no_grad():
            for name, tensor in adapter.tensors().items():
                fresh.tensors()[name].copy_(tensor)
        same(self.forward(backbone, adapter), self.forward(fresh_backbone, fresh))

    def test_an_adapter_file_survives_a_round_trip(self, tmp_path: Path) -> None:
        backbone, adapter = self.attached()
        other = self.backbone()
        if adapter.tensors():
            header = {"base": describe_base(backbone)}
            path = save_adapter(tmp_path / "adapter.safetensors", adapter, header, dtype=torch.float32)
            again, _ = load_adapter(path, other)
        else:
            again = attach_untrained(adapter.spec, other)
        assert again.spec == adapter.spec
        found, kept = again.tensors(), adapter.tensors()
        assert found.keys() == kept.keys() and all(torch.equal(found[name], tensor) for name, tensor in kept.items())
        same(self.forward(other, again), self.forward(backbone, adapter))

    def test_prompts_pass_the_networks_own_projection(self) -> None:
        """Without the toy's projection, prompts that were projected before give the same output."""
        backbone, adapter = self.attached()
        if not isinstance(backbone, ToyBackbone):
            return  # a U-Net has none
        out = self.forward(backbone, adapter)
        positive, negative = (replace(p, tokens=backbone.context(p).tokens) for p in (self.prompts(1), self.prompts(2)))
        backbone.caption = nn.Sequential()
        assert torch.equal(self.forward(backbone, adapter, positive=positive, negative=negative), out)

    def test_the_negative_prompt_acts_if_it_is_used(self) -> None:
        backbone, adapter = self.attached()
        out, other = self.forward(backbone, adapter), self.forward(backbone, adapter, negative=self.prompts(6))
        assert torch.allclose(out, other, atol=1e-6) != adapter.uses_negative

    def test_padding_of_the_negative_prompt_has_no_effect(self) -> None:
        backbone, adapter = self.attached()
        mask = _mask()
        given = replace(self.prompts(2), mask=mask)
        out = self.forward(backbone, adapter, negative=given)
        noise = 9 * torch.randn(given.tokens.shape, generator=torch.Generator().manual_seed(8))
        other = replace(given, tokens=torch.where(mask[..., None], given.tokens, noise))
        torch.testing.assert_close(self.forward(backbone, adapter, negative=other), out)
        shorter = given.map(lambda tensor: tensor[:, : int(mask.sum(1).max())])
        torch.testing.assert_close(self.forward(backbone, adapter, negative=shorter), out, atol=1e-5, rtol=1e-4)
        if adapter.uses_negative:
            unmasked = replace(other, mask=torch.ones_like(mask))
            assert not torch.allclose(self.forward(backbone, adapter, negative=unmasked), out, atol=1e-4)

    def test_it_can_be_attached_again(self) -> None:
        backbone, adapter = self.attached()
        before = self.forward(backbone, adapter)
        adapter.check_attached()
        adapter.detach()
        adapter.attach(backbone)
        assert torch.equal(self.forward(backbone, adapter), before)


def attach_moved(adapter: Any, backbone: Backbone) -> None:
    """Attach an adapter, and move its parameters off their initial values, the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        adapter.attach(backbone)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapter.trainable():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def same(found: Tensor, wanted: Tensor) -> None:
    """Equal but for the last bits, in which kernels differ by where in memory the weights are."""
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def _no_grad(run: Any, on: bool) -> Any:
    with torch.no_grad():  # each thread has its own
        return run(on)


def _mask() -> Tensor:
    """(3, L): the rows have 5, 4 and 3 tokens and end in padding."""
    return torch.arange(LENGTH) < torch.tensor([5, 4, 3])[:, None]


@cache
def _tiny_unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
        )
    return unet.eval().requires_grad_(False)
