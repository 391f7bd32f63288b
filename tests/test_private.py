"""What sunlab uses of Lightning's and torch's private attributes is there, in the version that is installed."""

from datetime import timedelta
from importlib.metadata import version

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.utils.data import DataLoader

from sunlab import private

HINT = f"seen on {private.SEEN_ON}; installed: " + ", ".join(f"{name} {version(name)}" for name in private.SEEN_ON)


def test_the_fit_loop_knows_whether_gradients_are_accumulated():
    assert callable(getattr(_FitLoop, "_should_accumulate", None)), HINT
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accumulate_grad_batches=2,
    )  # fmt: skip
    trainer.fit_loop.epoch_loop.batch_progress.current.ready = 1
    assert private.is_accumulating(trainer), HINT
    trainer.fit_loop.epoch_loop.batch_progress.current.ready = 2
    assert not private.is_accumulating(trainer), HINT


def test_ddp_takes_its_timeout_from_the_attribute():
    strategy = DDPStrategy(timeout=timedelta(seconds=7))
    assert strategy._timeout == timedelta(seconds=7), HINT
    private.set_timeout(strategy, timedelta(seconds=3))
    assert strategy._timeout == timedelta(seconds=3)
    private.set_timeout(object(), timedelta(seconds=3))  # of one process: there is no group


def test_ddp_takes_unused_parameters_from_the_attribute():
    strategy = DDPStrategy()
    assert hasattr(strategy, "_ddp_kwargs"), HINT
    private.find_unused_parameters(strategy)
    assert strategy._ddp_kwargs == DDPStrategy(find_unused_parameters=True)._ddp_kwargs, HINT
    private.find_unused_parameters(object())  # of one process


def test_the_ranks_are_taken_from_the_launcher():
    class Strategy:
        launcher = _SubprocessScriptLauncher(cluster_environment=None, num_processes=2, num_nodes=1)

    assert hasattr(Strategy.launcher, "procs"), HINT
    Strategy.launcher.procs = ["a", "b"]
    assert private.take_ranks(Strategy) == ["a", "b"] and Strategy.launcher.procs == []
    Strategy.launcher = None
    assert private.take_ranks(Strategy) == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_a_loader_can_be_listed_and_ended():
    iterator = iter(DataLoader(torch.arange(8), num_workers=2))
    next(iterator)
    workers = private.workers_of(iterator)
    assert len(workers) == 2 and all(worker.is_alive() for worker in workers), HINT
    private.shut_down(iterator)
    assert not any(worker.is_alive() for worker in workers), HINT
    alone = iter(DataLoader(torch.arange(8)))
    assert private.workers_of(alone) == []
    private.shut_down(alone)
