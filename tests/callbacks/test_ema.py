"""The average of the trained parameters: its formula, the swap, and resuming."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from sunlab.callbacks.ema import EMA


class Numbers(LightningModule):
    """Parameters that a test moves by hand."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.ones(2, 2))
        self.frozen = torch.nn.Parameter(torch.full((2,), 5.0), requires_grad=False)
        self.history = []

    def trainable(self):
        return {"a": self.a, "b": self.b}

    def training_step(self, batch, batch_idx):
        return ((self.a - 3) ** 2).sum() + ((self.b + 1) ** 2).sum()

    def on_train_batch_end(self, *_):
        self.history.append((self.trainer.global_step, self.a.detach().clone()))

    def configure_optimizers(self):
        return torch.optim.Adam([self.a, self.b], lr=0.1)


def fit(folder, steps, *, decay=0.9, ckpt=None, **options):
    ema, module = EMA(decay=decay), Numbers()
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, callbacks=[ema], **options,
    )  # fmt: skip
    trainer.fit(module, train_dataloaders=torch.utils.data.DataLoader(range(100)), ckpt_path=ckpt, weights_only=True)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return ema, module


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_formula(tmp_path, accumulate):
    ema, module = fit(tmp_path, 30, accumulate_grad_batches=accumulate)
    average = torch.zeros(3)
    steps = dict(module.history)  # the state after each optimizer step
    for n in range(1, 31):
        decay = min(0.9, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * steps[n]
    assert ema.steps == 30
    torch.testing.assert_close(ema.average["a"], average)


def test_swap_and_undo_are_exact(tmp_path):
    ema, module = fit(tmp_path, 5)
    trained = {k: p.detach().clone() for k, p in module.trainable().items()}
    average = {k: v.clone() for k, v in ema.average.items()}
    places = [p.data_ptr() for p in module.parameters()]
    for _ in range(2):
        ema.swap(module)
        assert all(torch.equal(p, average[k]) and not torch.equal(p, trained[k]) for k, p in module.trainable().items())
        ema.swap(module)
        assert all(torch.equal(p, trained[k]) for k, p in module.trainable().items())
    assert places == [p.data_ptr() for p in module.parameters()]
    assert all(torch.equal(v, average[k]) for k, v in ema.average.items())
    assert bool((module.frozen == 5).all()) and ema.average.keys() == {"a", "b"}


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")  # it has nothing to resume
def test_it_is_resumed(tmp_path):
    unbroken, _ = fit(tmp_path, 12)
    fit(tmp_path, 7)
    resumed, _ = fit(tmp_path, 12, ckpt=tmp_path / "7.ckpt")
    assert resumed.steps == unbroken.steps == 12
    assert all(torch.equal(resumed.average[k], v) for k, v in unbroken.average.items())


def test_a_checkpoint_saved_while_swapped_would_hold_the_average(tmp_path):
    """The state that is saved is the average's own, whatever is in the model."""
    ema, module = fit(tmp_path, 3)
    before = {k: v.clone() for k, v in ema.state_dict()["average"].items()}
    ema.swap(module)
    assert all(torch.equal(v, before[k]) for k, v in ema.state_dict()["average"].items())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range(decay):
    with pytest.raises(ValueError, match="must lie in"):
        EMA(decay=decay)
