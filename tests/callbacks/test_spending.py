"""Trainings that end when a budget is spent, not after so many steps."""

from types import SimpleNamespace

import pytest
import torch

from sunlab.app.fit import fit
from sunlab.callbacks.spending import Spending
from sunlab.config.load import load_config
from sunlab.distributed.later import Later
from sunlab.errors import ConfigError, Preempted

# Of a batch of 8: msc from data with 2 substeps of a guided teacher (2 passes each), one student pass and its backward.
STEP = 8 * (2 * 2 + 1 + 2)


def run(config, folder, *words, **options):
    return fit(load_config([config], [f"run.dir={folder}", *words]), **options)


def test_ends_after_the_step_that_spends_the_passes(tiny_config, tmp_path):
    done = run(tiny_config, tmp_path, f"budget.nfe={4 * STEP - 1}", "trainer.max_steps=2")
    assert done["trainer"].global_step == 4  # max_steps is not looked at
    cost = done["cost"]
    assert cost["teacher"] == 4 * 8 * 4 and cost["student"] == cost["backward"] == 4 * 8
    assert cost["equivalents"] == 4 * STEP and cost["steps"] == 4 and cost["seconds"] > 0
    rates = done["trainer"].optimizers[0].param_groups[0]["lr"]
    assert rates < 1e-3 * 0.5  # the cosine has come down along the budget, though max_steps is unlimited


def test_the_rate_is_zero_where_the_budget_is_spent(tiny_config, tmp_path):
    done = run(tiny_config, tmp_path, f"budget.nfe={3 * STEP}", "optimizer.warmup_steps=0")
    module, trainer = done["module"], done["trainer"]
    assert module.spent() == 1
    assert module.optimization.factor(3, None, module.spent) == pytest.approx(0, abs=1e-12)
    assert [module.optimization.factor(1, None, lambda s=s: s) for s in (0, 0.5)] == pytest.approx([1, 0.5])
    assert trainer.max_steps == trainer.global_step == 3


def test_a_resumed_run_spends_what_is_left(tiny_config, tmp_path):
    words = (f"budget.nfe={5 * STEP}", "run.checkpoint_every=1")
    whole = run(tiny_config, tmp_path / "a", *words)
    with pytest.raises(Preempted):
        run(tiny_config, tmp_path / "b", *words, time_limit=0)
    rest = run(tiny_config, tmp_path / "b", *words, resume="last")
    assert rest["cost"]["equivalents"] == whole["cost"]["equivalents"] and rest["cost"]["steps"] == 5
    a, b = (done["module"].trainable() for done in (whole, rest))
    assert all(torch.equal(a[name], b[name]) for name in a)
    again = run(tiny_config, tmp_path / "b", *words, resume="last")  # nothing is left
    assert again["cost"]["steps"] == 5


def test_ends_by_the_clock(tiny_config, tmp_path):
    done = run(tiny_config, tmp_path, "budget.seconds=0.3")
    assert 0.3 <= done["cost"]["seconds"] < 10 and done["trainer"].global_step >= 1


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["budget.nfe=0"], "budget.nfe: must be positive"),
        (["budget.nfe=1", "budget.seconds=1"], "give either nfe or seconds"),
        (["budget.nfe=1", "task=teacher"], "budget.nfe: .*give budget.seconds"),
        (["budget.seconds=1", "task=autoencoder"], r"budget.seconds: .*trainer\.max_steps"),
        (["budget.nef=1"], "did you mean 'nfe'"),
    ],
)
def test_errors(tiny_config, tmp_path, words, match):
    with pytest.raises(ConfigError, match=match):
        run(tiny_config, tmp_path, *words)


def test_several_gpus_end_after_the_same_step(monkeypatch):
    """Though what all ranks spent is read two steps later; the rate follows the same share."""
    spending = Spending(nfe=100)
    monkeypatch.setattr(spending, "_sums", Later(2))
    loop = SimpleNamespace(max_steps=-1)
    trainer = SimpleNamespace(
        world_size=2, global_step=0, fit_loop=SimpleNamespace(epoch_loop=loop),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )  # fmt: skip
    shares = []
    spending.on_train_start(trainer, None)
    while loop.max_steps < 0:
        trainer.global_step += 1
        spending.on_train_batch_end(trainer, SimpleNamespace(nfe=SimpleNamespace(equivalents=9 * trainer.global_step)))
        shares.append(spending.share)
    assert loop.max_steps == 12 and shares[2:] == pytest.approx([0.09 * step for step in range(3, 13)])
    assert spending.state_dict()["used"] == 108
