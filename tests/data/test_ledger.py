"""The ledger: what each step trained on, through kills, other ranks, and a checkpoint older than the newest."""

import json

import pytest
from checkpoints import KILL, saved

from fault_injection.apart import apart
from sunlab.cli.main import main
from sunlab.data.ledger import Entry, LedgerFile, audit, read, steps_of
from sunlab.errors import DataError


def entries(first, last, ranks=1):
    return [Entry(s, s // 4, tuple((f"{s % 4}-{r}",) for r in range(ranks))) for s in range(first, last)]


def test_lines_after_the_checkpoint_are_cut_off(tmp_path):
    path = tmp_path / "run" / "ledger.jsonl"
    file = LedgerFile(path)
    kept = file.append(entries(0, 3))
    file.append(entries(3, 6))  # of a checkpoint that was never finished
    resumed = LedgerFile(path, kept)
    resumed.append(entries(3, 8, ranks=2))
    assert [e.step for e in read(path)] == list(range(8))
    found = audit(path)
    assert found.exact and (found.first, found.last, found.samples, found.readers) == (0, 7, 13, {1, 2})
    LedgerFile(path).append(entries(0, 1))  # a run from the start, in the same folder
    assert len(list(read(path))) == 1


def test_what_an_audit_finds(tmp_path):
    path = tmp_path / "ledger.jsonl"
    LedgerFile(path).append([*entries(0, 3), *entries(2, 3), Entry(5, 0, (("2-0", "9 (for 8)"),))])
    found = audit(path)
    assert not found.exact and found.missing == [3, 4] and found.repeated_steps == [2]
    assert found.repeated == [(0, "2-0")] and found.stand_ins == 1
    assert steps_of(path)[5] == ["2-0", "9 (for 8)"]


def test_a_ledger_that_lost_lines_is_refused_and_a_new_folder_is_not(tmp_path):
    path = tmp_path / "ledger.jsonl"
    length = LedgerFile(path).append(entries(0, 3))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="vouches for"):
        LedgerFile(path, length).append(entries(3, 4))
    with pytest.raises(DataError, match="line 3: not an entry"):
        audit(path)
    LedgerFile(tmp_path / "new" / "ledger.jsonl", length).append(entries(3, 4))
    assert audit(tmp_path / "new" / "ledger.jsonl").first == 3


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_of_a_run_that_is_killed_and_resumed(tiny_config, tmp_path):
    """Over 48 samples, batches of 8, two micro-batches a step, a checkpoint every 3 steps."""
    words = ["fit", "--config", str(tiny_config), "trainer.max_steps=9", "run.checkpoint_every=3"]
    words += ["trainer.accumulate_grad_batches=2"]
    assert main([*words, f"run.dir={tmp_path / 'whole'}"]) == 0
    kill = ["--plugin", KILL, "callbacks=[{name: kill_of_the_tests, after: 5}]"]
    assert apart(lambda: main([*words, f"run.dir={tmp_path / 'killed'}", *kill])) == {}  # killed: it returns nothing
    path = tmp_path / "killed" / "tiny" / "ledger.jsonl"
    assert audit(path).last == 2  # of the checkpoint after three steps
    assert saved(tmp_path / "killed")["ledger"] == {"bytes": path.stat().st_size}
    assert main([*words, f"run.dir={tmp_path / 'killed'}", "--resume", "last"]) == 0
    found = audit(path)
    assert found.exact and (found.first, found.last, found.samples) == (0, 8, 9 * 8)
    assert path.read_bytes() == (tmp_path / "whole" / "tiny" / "ledger.jsonl").read_bytes()
    assert json.loads(path.read_text().splitlines()[6])["epoch"] == 1
