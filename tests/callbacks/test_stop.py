"""Signals ask for a stop; ranks agree on the step after which they stop, and are the run's only listeners."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sunlab.distributed.signals import Signals

# Two ranks of 2 ms steps. One is told at a random moment, within a step as a rule; the other is told nothing.
RANKS = """
import sys, time, warnings
import lightning.pytorch as pl
import torch
from sunlab.callbacks.stop import Stop
from sunlab.distributed.signals import Signals
warnings.simplefilter("ignore")
torch.set_num_threads(1)

class Tiny(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
    def training_step(self, batch, _):
        if self.global_step == 20 and self.global_rank == 1:
            open("ready", "w").close()
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)

with Signals() as signals:
    stop = Stop(signals)
    data = torch.utils.data.DataLoader(torch.randn(10**6, 4), batch_size=2)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_steps=10**6, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[stop],
    )
    trainer.fit(Tiny(), data)
    with open(f"rank{trainer.global_rank}", "w") as file:
        file.write(f"{trainer.global_step} {stop.reason}")
"""


@pytest.mark.slow
def test_no_hang_at_two_millisecond_steps(tmp_path):
    """The stock handler saves from inside a step and hung here (Lightning issue 21406)."""
    (tmp_path / "ranks.py").write_text(RANKS)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    for number in (signal.SIGUSR1, signal.SIGTERM):
        run = subprocess.Popen([sys.executable, "ranks.py"], cwd=tmp_path, env=environment)
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "ready").exists():
                assert run.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            run.send_signal(number)
            assert run.wait(timeout=600) == 0
            while not (tmp_path / "rank1").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            run.kill()
        told, other = ((tmp_path / f"rank{rank}").read_text().split(maxsplit=1) for rank in (0, 1))
        assert told[0] == other[0], "both stop after the same step"
        assert (told[1], other[1]) == (number.name, "another rank")
        for name in ("ready", "rank0", "rank1"):
            (tmp_path / name).unlink()


def test_outside_the_context_nobody_listens():
    former = signal.getsignal(signal.SIGUSR1)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == "SIGUSR1"
    assert signal.getsignal(signal.SIGUSR1) == former


def test_another_thread_owns_no_signals():
    former = signal.getsignal(signal.SIGUSR1)
    noted = []

    def enter():
        with Signals() as signals:
            noted.append((signal.getsignal(signal.SIGUSR1), signals.received))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert noted == [(former, None)]
