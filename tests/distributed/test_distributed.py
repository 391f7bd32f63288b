"""Several processes (gloo) train as one does with the same global batch."""

import csv
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from checkpoints import saved

STEPS = 6
REFUSE = """
from lightning.pytorch.callbacks import Callback
from sunlab.callbacks.base import CALLBACKS
from sunlab.errors import DataError

@CALLBACKS.register("refuse")
class Refuse(Callback):
    def __init__(self, *, rank: int):
        self.rank = rank

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_rank == self.rank and batch_idx == 2:
            raise DataError("00007.tar: damaged shard")
"""


def curve(folder: Path) -> list[float]:
    with (folder / "tiny" / "csv" / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


WORDS = [
    f"trainer.max_steps={STEPS}",
    "optimizer.schedule=constant",
    "callbacks=[{name: ema, decay: 0.9}, {name: throughput, every: 2}, {name: loss_by_time, every: 3}]",
]


def columns(folder: Path) -> dict[str, list[float]]:
    """The whole curve, but for what is measured by the clock."""
    with (folder / "tiny" / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if "samples/s" not in name]
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


@pytest.fixture(scope="module")
def whole(tiny_config, tmp_path_factory):
    """One process, one batch a step. Its folder."""
    from sunlab.app.fit import fit
    from sunlab.config.load import load_config

    folder = tmp_path_factory.mktemp("one")
    fit(load_config([tiny_config], [*WORDS, f"run.dir={folder}"]))
    return folder


def assert_same_training(folder: Path, one: Path) -> None:
    """Every curve, the samples of every step, the passes, and the weights."""
    from sunlab.data.ledger import steps_of
    from sunlab.export.file import read_adapter

    expected, found = columns(one), columns(folder)
    assert expected.keys() == found.keys() and len(expected["loss"]) == STEPS
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-5), name
    assert steps_of(folder / "tiny" / "ledger.jsonl") == steps_of(one / "tiny" / "ledger.jsonl")
    files = [read_adapter(f / "tiny" / "export" / "adapter.safetensors") for f in (one, folder)]
    assert files[0].header["training"] == files[1].header["training"]  # steps, and passes of all ranks by kind
    first, second = (saved(f)["state_dict"] for f in (one, folder))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-5, rtol=1e-5)


DDP = "trainer.strategy=ddp"


def test_accumulated_micro_batches_have_the_same_curve(whole, tiny_config, tmp_path):
    from sunlab.app.fit import fit
    from sunlab.config.load import load_config

    fit(load_config([tiny_config], [*WORDS, f"run.dir={tmp_path / 'four'}", "trainer.accumulate_grad_batches=4"]))
    assert_same_training(tmp_path / "four", whole)


def test_two_processes_have_the_same_curve(whole, sunlab_process, tiny_config, tmp_path):
    words = [*WORDS, f"run.dir={tmp_path / 'two'}", "trainer.devices=2", DDP]
    two = sunlab_process("fit", "--config", tiny_config, *words)
    assert two.returncode == 0, two.stderr
    assert_same_training(tmp_path / "two", whole)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "accumulate"), [(4, 1), (2, 2), (4, 2)])
def test_more_processes_have_the_same_curve(ranks, accumulate, whole, sunlab_process, tiny_config, tmp_path):
    words = [f"run.dir={tmp_path / 'more'}", f"trainer.devices={ranks}", f"trainer.accumulate_grad_batches={accumulate}"]
    more = sunlab_process("fit", "--config", tiny_config, *WORDS, *words, DDP, timeout=1800)
    assert more.returncode == 0, more.stderr
    assert_same_training(tmp_path / "more", whole)


@pytest.mark.slow
def test_torchrun_starts_the_ranks(whole, tiny_config, tmp_path):
    """As many as it was told to; another number than the configuration's is refused."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "sunlab"]
    words = ["fit", "--config", str(tiny_config), *WORDS, f"run.dir={tmp_path / 'two'}"]

    def start(*further):
        command = [*torchrun, *words, *further]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environ, text=True, capture_output=True, timeout=1800, check=False)

    refused = start("trainer.devices=1")
    assert refused.returncode and "1 asks for 1, but torchrun started 2 processes" in refused.stderr
    assert not (tmp_path / "two").exists()
    two = start("trainer.devices=auto", DDP)
    assert two.returncode == 0, two.stderr
    assert_same_training(tmp_path / "two", whole)


@pytest.mark.slow
def test_a_slice_on_two_processes_is_continued_by_one(whole, sunlab_process, tiny_config, tmp_path):
    from sunlab.app.fit import fit
    from sunlab.config.load import load_config

    words = [*WORDS, f"run.dir={tmp_path / 'more'}"]
    first = sunlab_process("fit", "--config", tiny_config, *words, "trainer.devices=2", DDP, "--time-limit", "0s")
    assert first.returncode == 75, first.stderr
    fit(load_config([tiny_config], words), resume="last")
    assert_same_training(tmp_path / "more", whole)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(sunlab_process, tiny_config, tmp_path):
    """The ledger has every sample of every step once, and the same in every step as on one rank."""
    from sunlab.app.fit import fit
    from sunlab.config.load import load_config
    from sunlab.data.ledger import audit, steps_of

    words = ["trainer.max_steps=9", "optimizer.schedule=constant", "run.checkpoint_every=4"]
    fit(load_config([tiny_config], [*words, f"run.dir={tmp_path / 'one'}"]))
    more = [f"run.dir={tmp_path / 'more'}", "trainer.devices=2", "trainer.strategy=ddp", "data.workers=2"]
    two = sunlab_process("fit", "--config", tiny_config, *words, *more, "--time-limit", "0s")
    assert two.returncode == 75, two.stderr
    fit(load_config([tiny_config], [*words, f"run.dir={tmp_path / 'more'}", "data.workers=1"]), resume="last")
    path = tmp_path / "more" / "tiny" / "ledger.jsonl"
    assert audit(path).exact and audit(path).readers == {1, 2}
    assert steps_of(path) == steps_of(tmp_path / "one" / "tiny" / "ledger.jsonl")


def test_a_strategy_that_this_machine_cannot_have(tiny_config, tmp_path, capsys):
    from sunlab.cli.main import main

    assert main(["fit", "--config", str(tiny_config), f"run.dir={tmp_path}", "trainer.strategy=fsdp"]) == 78
    assert "trainer.strategy: 'fsdp' divides the weights" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_all_end_with_the_code_of_the_one_that_failed(sunlab_process, tiny_config, tmp_path, rank):
    """Of ranks that Lightning started, either may be first; the command's code is its code, and nobody is left."""
    plugin = tmp_path / "refuse.py"
    plugin.write_text(REFUSE)
    words = [
        "trainer.devices=2",
        "trainer.strategy=ddp",
        f"callbacks=[{{name: refuse, rank: {rank}}}]",
        f"run.dir={tmp_path}",
    ]
    done = sunlab_process("fit", "--config", tiny_config, "--plugin", plugin, *words)
    assert done.returncode == 65 and "00007.tar: damaged shard" in done.stderr, done.stderr
    assert "another rank has ended" not in done.stderr and not left(str(plugin))


def left(word: str) -> list[str]:
    """Command lines of processes that mention it."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_text(errors="replace"))
    return [line for line in lines if word in line]
