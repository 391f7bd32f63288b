"""Several processes (gloo) train as one does with the same global batch."""

import csv
from contextlib import suppress
from pathlib import Path

import pytest
import torch

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


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_one_and_two_processes_have_the_same_curve(sunlab_process, tiny_config, tmp_path):
    from sunlab.build import fit
    from sunlab.config.load import load_config

    words = [f"trainer.max_steps={STEPS}", "optimizer.schedule=constant", "callbacks=[{name: ema, decay: 0.9}, throughput]"]
    fit(load_config([tiny_config], [*words, f"run.dir={tmp_path / 'one'}"]))
    two = sunlab_process(
        "fit", "--config", tiny_config, *words, f"run.dir={tmp_path / 'two'}", "trainer.devices=2", "trainer.strategy=ddp"
    )
    assert two.returncode == 0, two.stderr
    one, other = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) == STEPS and other == pytest.approx(one, rel=1e-5)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-5, rtol=1e-5)
    assert (tmp_path / "two" / "tiny" / "export" / "adapter.safetensors").is_file()


@pytest.mark.slow
def test_a_slice_on_two_processes_is_continued_by_one(sunlab_process, tiny_config, tmp_path):
    from sunlab.build import fit
    from sunlab.config.load import load_config

    words = [f"trainer.max_steps={STEPS}", "callbacks=[{name: ema, decay: 0.9}]"]
    fit(load_config([tiny_config], [*words, f"run.dir={tmp_path / 'one'}"]))
    two = ["trainer.devices=2", "trainer.strategy=ddp"]
    first = sunlab_process("fit", "--config", tiny_config, *words, f"run.dir={tmp_path}", *two, "--time-limit", "0s")
    assert first.returncode == 75, first.stderr
    fit(load_config([tiny_config], [*words, f"run.dir={tmp_path}"]), resume="last")
    assert curve(tmp_path) == pytest.approx(curve(tmp_path / "one"), rel=1e-5)
    other = weights(tmp_path)
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(sunlab_process, tiny_config, tmp_path):
    """The ledger has every sample of every step once, and the same in every step as on one rank."""
    from sunlab.build import fit
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
    assert "trainer: The strategy `fsdp` requires a GPU accelerator" in capsys.readouterr().err


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
    assert "another rank is gone" not in done.stderr and not left(str(plugin))


def left(word: str) -> list[str]:
    """Command lines of processes that mention it."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_text(errors="replace"))
    return [line for line in lines if word in line]
