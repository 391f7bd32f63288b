"""The data module under a true Trainer: interrupted and resumed runs see the same batches as an unbroken one."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from sunlab.data.datamodule import DataModule
from sunlab.data.negatives import Mixture
from sunlab.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning 2.6.6 on torch 2.13


class Recorder(LightningModule):
    """Learns one number, and notes the keys and negatives of every micro-batch with the step that it belongs to."""

    def __init__(self):
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, list[tuple[str, str]]] = {}

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(self.trainer.global_step, []).extend(zip(batch.keys, batch.negatives, strict=True))
        return (batch.images.float().mean() / 255 - self.number) ** 2

    def configure_optimizers(self):
        self.trainer.estimated_stepping_batches  # noqa: B018 -- may ask for the loader before the state is restored
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Save(Callback):
    """As ModelCheckpoint saves, in the same hook, without its remarks on folders."""

    def __init__(self, folder, every):
        self.folder, self.every = folder, every

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step % self.every == 0:
            trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")


def fit(source, folder, steps, *, ckpt=None, every=None, data=None, **given):
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Save(folder, every)] if every else [], enable_checkpointing=False, **given,
    )  # fmt: skip
    module = Recorder()
    trainer.fit(module, DataModule(source(), Mixture(), **{"batch_size": 8, "streams": 4, **(data or {})}), ckpt_path=ckpt)
    return module


@pytest.fixture
def unbroken(source, tmp_path):
    return fit(source, tmp_path, 14)


@pytest.mark.parametrize(
    ("trainer", "data"),
    [
        ({}, {}),
        ({}, {"workers": 2}),
        ({"accumulate_grad_batches": 2}, {}),
        ({"limit_train_batches": 4}, {}),  # Lightning's epochs end in the midst of ours
        ({"max_epochs": 1000}, {}),  # the loader is made before the state is restored
    ],
)
def test_resume_sees_the_same_batches(source, tmp_path, unbroken, trainer, data):
    first = fit(source, tmp_path, 9, every=3, data=data, **trainer)
    saved = {step: tmp_path / f"step={step}.ckpt" for step in (6, 9)}
    second = fit(source, tmp_path, 14, ckpt=saved[9], data=data, **trainer)
    assert first.seen | second.seen == unbroken.seen and not first.seen.keys() & second.seen.keys()
    assert second.number.item() == pytest.approx(unbroken.number.item(), abs=1e-6)
    third = fit(source, tmp_path, 14, ckpt=saved[6], data=data, **trainer)
    assert third.seen == {step: seen for step, seen in unbroken.seen.items() if step >= 6}


@pytest.mark.parametrize("epochs", [None, 1000])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2)])
def test_resume_with_another_accumulation(source, tmp_path, unbroken, before, after, epochs):
    fit(source, tmp_path, 5, every=5, accumulate_grad_batches=before)
    saved = tmp_path / "step=5.ckpt"
    second = fit(source, tmp_path, 14, ckpt=saved, accumulate_grad_batches=after, max_epochs=epochs)
    assert second.number.item() == pytest.approx(unbroken.number.item(), abs=1e-6)
    assert second.seen == {step: seen for step, seen in unbroken.seen.items() if step >= 5}


def test_a_checkpoint_made_within_a_step_repeats_that_step(source, tmp_path, unbroken):
    class Interrupted(Recorder):
        def on_train_batch_end(self, *_):
            if self.trainer.fit_loop.epoch_loop.batch_progress.total.processed == 7:  # the first half of step 3
                self.trainer.save_checkpoint(tmp_path / "within.ckpt")

    trainer = Trainer(
        accelerator="cpu",
        max_steps=5,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        accumulate_grad_batches=2,
    )
    trainer.fit(Interrupted(), DataModule(source(), Mixture(), batch_size=8, streams=4))
    rest = fit(source, tmp_path, 14, ckpt=tmp_path / "within.ckpt", accumulate_grad_batches=2)
    assert rest.seen == {step: seen for step, seen in unbroken.seen.items() if step >= 3}


def test_a_second_fit_of_one_trainer_goes_on(source, tmp_path, unbroken):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=5,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    module, data = Recorder(), DataModule(source(), Mixture(), batch_size=8, streams=4)
    trainer.fit(module, data)
    trainer.fit_loop.epoch_loop.max_steps = 14
    trainer.fit(module, data)
    assert module.seen == unbroken.seen


def test_starting_workers_draws_nothing_from_the_runs_random_state(source):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(DataModule(source(), Mixture(), batch_size=8, streams=4, workers=1).loader()))
    assert torch.equal(torch.get_rng_state(), before)


def test_another_order_is_not_resumed(source):
    state = DataModule(source(), Mixture(), batch_size=8, streams=4).state_dict()
    with pytest.raises(ConfigError, match="made with batch_size = 8, this run has 16"):
        DataModule(source(), Mixture(), batch_size=16, streams=4).load_state_dict(state)


def test_accumulation_is_told_once(source):
    module = DataModule(source(), Mixture(), batch_size=8, streams=4, accumulate=4)
    module.trainer = Trainer(accelerator="cpu", accumulate_grad_batches=2, logger=False, enable_checkpointing=False)
    with pytest.raises(ConfigError, match="drop one"):
        module.train_dataloader()


SCRIPT = """
import multiprocessing
import sys
from sunlab.data.negatives import Pool
from sunlab.data.loader import Loader
from sunlab.data.negatives import Empty
from sunlab.data.negatives import PromptDraws
from sunlab.data.shards import Shards
from sunlab.data.streams import Layout, Reader
source = Shards(urls=[sys.argv[1] + "/train-*.tar"])
streams = Reader(source, PromptDraws(Empty(), Pool()), Layout(len(source), 8, 4), seed=0, rank=0, ranks=1)
batches = iter(Loader(lambda step: streams, 2, 1, lambda: 0))
next(batches)
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
"""


def test_workers_leave_when_their_parent_exits(folder):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2
    gone(map(int, done.stdout.split()))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_ignore_signals_and_leave_when_their_parent_is_killed(source):
    here, there = multiprocessing.Pipe()

    def load():
        batches = iter(DataModule(source(), Mixture(), batch_size=8, streams=4, workers=2).loader())
        next(batches)
        there.send([child.pid for child in multiprocessing.active_children()])
        time.sleep(600)

    process = multiprocessing.get_context("fork").Process(target=load)
    process.start()
    pids = here.recv()
    assert len(pids) == 2
    for pid in pids:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, number)
    time.sleep(0.5)
    assert all(_alive(pid) for pid in pids)
    process.kill()
    process.join()
    gone(pids)


def gone(pids):
    deadline, pids = time.monotonic() + 60, list(pids)
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, pids))


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
