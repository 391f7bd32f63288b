"""A step that is not finite leaves no trace in weights and optimizer; a row of them ends the run, its batches told."""

import json
import math

import pytest
import torch

from sunlab.app.fit import fit
from sunlab.config.load import load_config
from sunlab.data.ledger import read
from sunlab.errors import DataError, NotFinite

HARM = "{{name: inject_harm, what: nan, step: {}, steps: {}}}"


def run(tiny_config, folder, step, steps, *words):
    given = [
        "plugins=[fault_injection.probes]",
        f"callbacks=[{HARM.format(step, steps)}]",
        f"run.dir={folder}",
        *words,
    ]
    return fit(load_config([tiny_config], given))


def saved(folder):
    return torch.load(folder / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)


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
