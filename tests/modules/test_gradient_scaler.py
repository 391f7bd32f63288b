"""fp16's gradient scaler, as far as a CPU can show it: scaled, clipped and skipped steps."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from sunlab.adapters.sun import SUN
from sunlab.backbones.pretrained import load_base
from sunlab.losses.dmd import DMD
from sunlab.losses.msc import MSC
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.optimization import Optimization

STEPS = 3


class Overflow(Callback):
    """Makes the gradients of one step infinite."""

    def __init__(self, step):
        self.step = step

    def on_after_backward(self, trainer, module):
        if trainer.global_step == self.step:
            next(p for p in module.trainable().values() if p.grad is not None).grad.fill_(torch.inf)


def trained(folder, data, *, scaler=None, loss=None, clip=1e-3, callbacks=()):
    """The adapter's tensors after `STEPS` steps with clipped gradients, and how many steps the scaler skipped."""
    torch.manual_seed(0)
    loss = loss or MSC(states="data", substeps=1)
    module = AdapterModule(load_base(folder), SUN(), loss, optimization=Optimization(lr=1e-2))
    precision = {} if scaler is None else {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    trainer = Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, gradient_clip_val=clip, callbacks=list(callbacks),
        **precision,
    )  # fmt: skip
    before = {name: tensor.detach().clone() for name, tensor in module.trainable().items()}
    trainer.fit(module, datamodule=data())
    return before, {name: tensor.detach().clone() for name, tensor in module.trainable().items()}


def test_clipped_steps_are_those_of_single_precision(tiny_base_folder, tiny_data):
    before, plain = trained(tiny_base_folder, tiny_data)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    _, scaled = trained(tiny_base_folder, tiny_data, scaler=scaler)
    moved, wanted = (torch.cat([(after[k] - before[k]).flatten() for k in before]) for after in (scaled, plain))
    assert wanted.norm() > 0 and torch.nn.functional.cosine_similarity(moved, wanted, dim=0) > 0.9
    assert float(moved.norm()) == pytest.approx(float(wanted.norm()), rel=0.1)


def test_a_step_whose_gradients_overflow_is_skipped(tiny_base_folder, tiny_data):
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    _, after = trained(tiny_base_folder, tiny_data, scaler=scaler, callbacks=[Overflow(1)])
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert scaler.get_scale() == 128.0


def test_a_loss_with_networks(tiny_base_folder, tiny_data):
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    loss = DMD(critic_steps=1, fake={"name": "lora", "rank": 2})
    before, after = trained(tiny_base_folder, tiny_data, scaler=scaler, loss=loss)
    assert any(not torch.equal(before[k], after[k]) for k in before)
    assert all(tensor.isfinite().all() for tensor in after.values())
