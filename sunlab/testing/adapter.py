"""The contract of an adapter."""

from copy import deepcopy
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sunlab.backbones.sd.attention import passing
from sunlab.testing.component import ComponentContract
from sunlab.types import Conditioning

TEXT_WIDTH = 8


class AdapterContract(ComponentContract):
    """Off, the U-Net is the base to the bit; on, each sample sees its own prompts and the adapter alone learns."""

    kind: ClassVar[str] = "adapters"

    def unet(self) -> nn.Module:
        """A frozen U-Net with cross-attention, the same in every call."""
        return deepcopy(_tiny_unet())

    def prompts(self, seed: int) -> Conditioning:
        return Conditioning(torch.randn(3, 7, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed)))

    def forward(self, unet: Any, adapter: Any | None = None, rows: slice = slice(None)) -> Tensor:
        """The U-Net's output (B, 4, 8, 8), with the adapter on where one is given."""
        x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))[rows]
        positive, negative, w = self.prompts(1)[rows], self.prompts(2)[rows], torch.tensor([2.0, 4.0, 8.0])[rows]
        state = None if adapter is None else adapter.state(positive, negative, w)
        t = torch.tensor([999, 499, 249])[rows]
        return unet(x, t, encoder_hidden_states=positive.tokens, return_dict=False, **passing(state))[0]

    def attached(self) -> tuple[Any, Any]:
        """U-Net and adapter, the adapter's parameters moved off their initial values, and switched on."""
        unet, adapter = self.unet(), self.build()
        adapter.attach(unet)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in adapter.trainable():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        adapter.switch(True)
        return unet, adapter

    def test_off_is_the_base_to_the_bit(self) -> None:
        unet, adapter = self.attached()
        self.forward(unet, adapter)
        adapter.switch(False)
        assert torch.equal(self.forward(unet), self.forward(self.unet()))

    def test_detached_leaves_no_trace(self) -> None:
        unet, adapter = self.attached()
        adapter.detach()
        base = self.unet()
        assert torch.equal(self.forward(unet), self.forward(base))
        before, after = base.state_dict(), unet.state_dict()
        assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)

    def test_on_it_has_an_effect(self) -> None:
        unet, adapter = self.attached()
        out = self.forward(unet, adapter)
        assert bool(out.isfinite().all()) and not torch.allclose(out, self.forward(self.unet()))

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        unet, adapter = self.attached()
        together = self.forward(unet, adapter)
        for i in range(3):
            row = slice(i, i + 1)
            torch.testing.assert_close(together[row], self.forward(unet, adapter, row), atol=1e-5, rtol=1e-4)

    def test_the_adapter_learns_and_the_base_does_not(self) -> None:
        unet, adapter = self.attached()
        own = {id(p) for p in adapter.trainable()}
        if not own:
            return  # a training-free adapter
        for parameter in adapter.trainable():
            assert parameter.requires_grad
        self.forward(unet, adapter).square().mean().backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in adapter.trainable())
        assert all(p.grad is None for p in unet.parameters() if id(p) not in own)
        assert not any(p.requires_grad for p in unet.parameters() if id(p) not in own)

    def test_tensors_survive_a_round_trip(self) -> None:
        """The tensors are the whole of what is learned: put into a fresh adapter they give the same output."""
        unet, adapter = self.attached()
        fresh_unet, fresh = self.unet(), self.build()
        fresh.attach(fresh_unet)
        fresh.switch(True)
        assert list(fresh.tensors()) == list(adapter.tensors())
        with torch.no_grad():
            for name, tensor in adapter.tensors().items():
                fresh.tensors()[name].copy_(tensor)
        assert torch.equal(self.forward(unet, adapter), self.forward(fresh_unet, fresh))

    def test_it_can_be_plugged_in_again(self) -> None:
        unet, adapter = self.attached()
        adapter.detach()
        adapter.attach(unet)
        adapter.switch(True)
        assert bool(self.forward(unet, adapter).isfinite().all())


@cache
def _tiny_unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
        )
    return unet.eval().requires_grad_(False)
