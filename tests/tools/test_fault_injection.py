"""Fault injection: a trial that misses something fails, and an unforeseen error is reported."""

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fault_injection.families import bytes as bytes_family
from fault_injection.report import show, to_json, write
from fault_injection.run import trials
from fault_injection.trial import Seen, Trial, perform
from fault_injection.world import World
from sunlab.cli.main import main
from sunlab.errors import ConfigError

PROGRAM = Path(__file__).parents[2] / "tools" / "inject_faults.py"
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # trials fork; the children need no threads


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, main, seed=5, quick=True)


def named(word: str) -> Trial:
    (one,) = trials([word])
    return one


def test_all_twenty_faults_and_the_three_trials_are_there():
    numbers = {int(found[0]) for one in trials(["faults"]) if (found := re.match(r"\d+", one.name))}
    assert numbers == set(range(1, 21))
    assert {one.family for one in trials()} == {"load", "kills", "bytes", "faults"}
    with pytest.raises(ConfigError, match="--only nonsense: no such trial"):
        trials(["nonsense"])


@pytest.mark.parametrize("word", ["4 ", "7 ", "14 "])
def test_trials_without_a_run(world, word):
    result = perform(named(word), world)
    assert result.passed and result.cases > 5, result.wrong


def test_the_same_seed_draws_the_same(tmp_path):
    draws = [World(tmp_path, main, seed).random("kills").random() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_what_passes_unseen_is_a_failure(world, monkeypatch):
    """Without an index nothing can be verified: flips come through, and the trial says so."""
    monkeypatch.setattr(bytes_family, "make_index", lambda folder: None)
    result = perform(named("bit flips"), world)
    assert not result.passed and result.counts["silent"] > 0


def test_flips_and_cuts_with_an_index(world):
    for word in ("bit flips", "cuts"):
        result = perform(named(word), world)
        assert result.passed and result.counts["silent"] == 0, result.wrong


def test_a_trial_that_breaks_or_checks_nothing_has_failed(world):
    def breaks(world: World, seen: Seen) -> None:
        seen.check(True, "one thing")
        raise KeyError("surprise")

    broken = perform(Trial("faults", "21 a bug", "none", breaks), world)
    assert not broken.passed and "surprise" in broken.wrong[0] and broken.cases == 2
    empty = perform(Trial("faults", "22 nothing", "none", lambda world, seen: None), world)
    assert not empty.passed


def test_report(world, tmp_path):
    results = [perform(named("4 "), world), perform(Trial("faults", "x [y]", "z", lambda w, s: None), world)]
    report = to_json(results, seed=5, quick=True, seconds=1.5)
    write(tmp_path / "report" / "faults.json", report)
    again = json.loads((tmp_path / "report" / "faults.json").read_text())
    assert again["seed"] == 5 and not again["passed"] and len(again["trials"]) == 2
    assert any("NCCL" in line for line in again["not_shown"]) and any("power" in line for line in again["not_shown"])
    shown = StringIO()
    show(Console(file=shown, width=160), results)
    assert "FAIL" in shown.getvalue() and "x [y]" in shown.getvalue() and "NCCL" in shown.getvalue()


@pytest.mark.slow
def test_the_whole(tmp_path):
    """Within the hour."""
    command = [sys.executable, str(PROGRAM), "--seed", "11", "--json", str(tmp_path / "faults.json")]
    done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert json.loads((tmp_path / "faults.json").read_text())["passed"]
