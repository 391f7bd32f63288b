"""A step that is not finite leaves no trace in weights and optimizer; a row of them ends the run, its batches told."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from checkpoints import saved

from sunlab.app.fit import fit
from sunlab.callbacks.finite import SkipNonFinite
from sunlab.config.load import load_config
from sunlab.data.ledger import read
from sunlab.errors import DataError, NotFinite
from sunlab.losses.joint import JointOptimizer
from sunlab.testing.device import no_host_reads

HARM = "{{name: inject_harm, what: nan, step: {}, steps: {}}}"


def run(tiny_config, folder, step, steps, *words):
    given = [
        "plugins=[fault_injection.probes]",
        f"callbacks=[{HARM.format(step, steps)}]",
        f"run.dir={folder}",
        *words,
    ]
    return fit(load_config([tiny_config], given))


def skips(folder):
    return [json.loads(line) for line in (folder / "tiny" / "skipped" / "rank-0.jsonl").read_text().splitlines()]


def test_a_step_is_skipped_whole(tiny_config, tmp_path, capsys):
    """As if its gradient did not exist: the optimizer counts five steps, the run six, and the order does not shift."""
    run(tiny_config, tmp_path, 2, 1)
    state = saved(tmp_path)
    assert state["global_step"] == 6
    assert {int(v["step"]) for v in state["optimizer_states"][0]["state"].values()} == {5}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["state_dict"].values())
    (skip,) = skips(tmp_path)
    ledger = {entry.step: entry.ranks[0] for entry in read(tmp_path / "tiny" / "ledger.jsonl")}
    assert sorted(ledger) == list(range(6)) and sorted(skip["keys"]) == sorted(ledger[2])
    assert skip["step"] == 2 and not skip["finite"] and math.isnan(float(skip["losses"][0]))
    assert len(skip["keys"]) == len(skip["prompts"]) == len(skip["negatives"]) == len(skip["seeds"]) == 8
    assert "skipped_steps" in (tmp_path / "tiny" / "csv" / "metrics.csv").read_text()
    said = capsys.readouterr().err
    assert "warning: step 2: a loss or gradient is not finite" in said and "1 in a row, 1 in all" in said


def test_the_weights_are_those_before(tiny_config, tmp_path):
    """A run whose last steps are all skipped has the weights of one that ended before them."""
    run(tiny_config, tmp_path / "a", 2, 2, "trainer.max_steps=4", "optimizer.schedule=constant")
    run(tiny_config, tmp_path / "b", 99, 1, "trainer.max_steps=2", "optimizer.schedule=constant")
    first, second = saved(tmp_path / "a")["state_dict"], saved(tmp_path / "b")["state_dict"]
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_several_in_a_row_end_the_run(tiny_config, tmp_path):
    with pytest.raises(NotFinite, match=r"step 3: a loss or gradient is not finite.*rank-0\.jsonl") as caught:
        run(tiny_config, tmp_path, 1, 5, "run.skip_limit=3")
    assert isinstance(caught.value, DataError) and caught.value.exit_code == 65
    assert [skip["step"] for skip in skips(tmp_path)] == [1, 2, 3]


class Loop:
    """Steps of two parameters under the callback, as Lightning calls it. Flags are read `lag` steps late, as on a GPU."""

    def __init__(self, folder, *, lag, limit=10, make=lambda p: torch.optim.AdamW([p], lr=0.1, fused=True)):
        self.weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
        self.optimizer = JointOptimizer([make(p) for p in self.weights])
        self.callback = SkipNonFinite(folder, limit=limit, lag=lag)
        self.trainer = SimpleNamespace(
            global_step=0, global_rank=0, is_global_zero=True, loggers=[], precision_plugin=SimpleNamespace()
        )
        self.callback.setup(self.trainer, None, "fit")

    def step(self, factor, gradient=1.0):
        batch = SimpleNamespace(keys=(str(self.trainer.global_step),))
        self.callback.on_train_batch_start(self.trainer, None, batch, 0)
        loss = factor * sum(p.square().sum() for p in self.weights)
        self.callback.on_before_backward(self.trainer, None, loss)
        self.optimizer.zero_grad()
        loss.backward()
        self.weights[0].grad.mul_(gradient)
        self.callback.on_before_optimizer_step(self.trainer, None, self.optimizer)
        self.optimizer.step()
        self.trainer.global_step += 1

    def state(self):
        kept = [value for each in self.optimizer.optimizers for state in each.state.values() for value in state.values()]
        return [*(p.detach() for p in self.weights), *kept]


def noted(folder):
    return [json.loads(line) for line in (folder / "skipped" / "rank-0.jsonl").read_text().splitlines()]


PLAIN = {"make": lambda p: torch.optim.AdamW([p], lr=0.1, fused=False)}


@pytest.mark.parametrize("options", [{"lag": 0}, {"lag": 2}, {"lag": 2, **PLAIN}], ids=["now", "later", "not fused"])
def test_the_device_skips_and_the_host_reads_later(options, tmp_path):
    """One without the step has the same weights, moments and counts; of a gradient in one place, and of a loss."""
    loop, clean = Loop(tmp_path / "a", **options), Loop(tmp_path / "b", **options)
    for factor, gradient in ((1, 1), (2, math.inf), (math.nan, 1), (3, 1), (4, 1)):
        loop.step(factor, gradient)
        if math.isfinite(factor * gradient):
            clean.step(factor)
    assert all(torch.equal(a, b) for a, b in zip(loop.state(), clean.state(), strict=True))
    assert loop.callback.state_dict() == {"skipped": 2, "in_a_row": {"student": 0, "critic": 0}}
    first, second = noted(tmp_path / "a")
    assert (first["step"], first["keys"], first["finite"]) == (1, ["1"], True)
    assert (second["step"], second["keys"], second["finite"], second["losses"]) == (2, ["2"], False, ["nan"])
    assert not (tmp_path / "b").exists()


def test_the_run_ends_as_soon_as_the_limit_is_read(tmp_path):
    loop = Loop(tmp_path, lag=2, limit=2)
    for factor in (1, math.nan, math.nan, 1):
        loop.step(factor)
    before = [tensor.clone() for tensor in loop.state()]
    with pytest.raises(NotFinite, match=r"step 2: a loss or gradient is not finite.*The last 2 steps"):
        loop.step(1)
    assert [note["step"] for note in noted(tmp_path)] == [1, 2]
    assert all(torch.equal(a, b) for a, b in zip(loop.state(), before, strict=True))
    late = Loop(tmp_path, lag=2, limit=2)
    for _ in range(2):
        late.step(math.nan)
    with pytest.raises(NotFinite, match="step 1"):
        late.callback.on_train_end(late.trainer, None)


def test_no_value_is_read_in_a_step(tmp_path):
    with no_host_reads():
        loop = Loop(tmp_path, lag=2)
        for _ in range(2):
            loop.step(1.0)
    with pytest.raises(AssertionError, match="read on the host"), no_host_reads():
        Loop(tmp_path, lag=0).step(1.0)
