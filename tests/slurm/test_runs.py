"""Whole trainings on the cluster: a run on two nodes, preempted in its midst, and the refusal of ranks that differ."""

import csv
import re
import subprocess
import sys

import pytest
import torch

from sunlab.app.fit import fit
from sunlab.cli.main import main
from sunlab.config.load import load_config

pytestmark = pytest.mark.slurm

STEPS, EVERY = 24, 4
PATIENCE = 900  # seconds; a fraction of it where the processors are free


def curve(folder):
    with (folder / "csv" / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row["loss"]}


def logs(folder):
    return "".join(
        f"--- {p}\n{p.read_text()[-1500:]}" for p in folder.rglob("*") if p.name == "log.txt" or p.suffix == ".log"
    )


def test_two_nodes_preempted(on_slurm, slow, tiny_config, tmp_path, until, monkeypatch, capsys):
    """DDP over srun, told to stop in mid-run, put back by the script, continued: the curve of one unbroken process."""
    words = [
        "--config",
        str(tiny_config),
        f"plugins=[{slow}]",
        "callbacks=[slow_of_the_tests]",
        f"trainer.max_steps={STEPS}",
    ]
    wide = ["trainer.num_nodes=2", "trainer.devices=1", "trainer.strategy=ddp", f"run.checkpoint_every={EVERY}"]
    assert main(["submit", *words, *wide, f"run.dir={tmp_path}"]) == 0
    assert main(["submit", *words, *wide, f"run.dir={tmp_path}"]) == 0
    job, again = (line.split("job ")[1].split()[0].rstrip(",") for line in capsys.readouterr().out.splitlines())
    assert job == again, "submitting twice queues once"
    folder = tmp_path / "tiny"
    until(lambda: (folder / "checkpoints" / "last.ckpt").is_file(), PATIENCE, lambda: logs(folder))
    on_slurm.ask("scancel", "--signal=USR1", job)
    until(lambda: (folder / "export" / "adapter.safetensors").is_file(), PATIENCE, lambda: logs(folder))
    log = (folder / "log.txt").read_text()
    told = re.findall(r"stopped by (?:SIGUSR1|another rank) at step", log)  # Slurm signals one node after the other
    assert len(told) == 1, "the first rank alone says so"
    assert "start 2" in log and log.count("== ") == 3
    assert len(re.findall(r"on sunlab-n\[\d[-,]\d\], start", log)) == 2, "two nodes, both times"

    monkeypatch.delenv("SLOW_STEP")
    fit(load_config([tiny_config], [*words[2:], f"run.dir={tmp_path / 'alone'}"]))
    assert curve(folder) == pytest.approx(curve(tmp_path / "alone" / "tiny"), rel=1e-5)
    one, two = (torch.load(f / "checkpoints" / "last.ckpt")["state_dict"] for f in (tmp_path / "alone" / "tiny", folder))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-5)


FAILING = '''
import os
from lightning.pytorch.callbacks import Callback
from sunlab.callbacks.base import CALLBACKS
from sunlab.errors import DataError

@CALLBACKS.register("torn_of_the_test")
class Torn(Callback):
    """A shard that only the second rank reads."""
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_rank == 1:
            raise DataError("shard 7 is torn")
'''


def test_a_rank_that_fails_ends_the_job_with_its_own_code(on_slurm, tiny_config, tmp_path, until, monkeypatch, capsys):
    """Not with the code of those that srun ends for it, and never with one that puts the job back."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torn.py").write_text(FAILING)
    words = [f"plugins=[{tmp_path / 'torn.py'}]", "callbacks=[torn_of_the_test]", "trainer.num_nodes=2", "trainer.devices=1"]
    assert main(["submit", "--config", str(tiny_config), *words, "trainer.strategy=ddp", f"run.dir={tmp_path}"]) == 0
    number, folder = capsys.readouterr().out.split("job ")[1].split(",")[0], tmp_path / "tiny"
    told = lambda: on_slurm.ask("scontrol", "show", "job", number)  # noqa: E731
    until(lambda: "JobState=FAILED" in told(), PATIENCE, lambda: logs(folder))
    assert "ExitCode=65:0" in told() and "Restarts=0" in told(), logs(folder)
    log = (folder / "log.txt").read_text()
    assert "[rank 1 on " in log and "error: shard 7 is torn" in log and "requeued" not in log


def test_two_tasks_for_one_device_are_refused(on_slurm, tiny_config, tmp_path):
    """Lightning alone would train twice into one folder."""
    done = subprocess.run(
        ["srun", "--ntasks=2", sys.executable, "-m", "sunlab", "fit", "--config", str(tiny_config), "trainer.devices=1"],
        cwd=tmp_path, env=on_slurm.env, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 78, done.stderr
    assert "trainer.devices: 1 asks for 1, but srun started 2 processes on each of 1 nodes" in done.stderr
    assert "[rank 0 on" in done.stderr or "[rank 1 on" in done.stderr
    assert not (tmp_path / "runs").exists()
