"""The largest batch that fits, from two estimates."""

import sys

import pytest

import plan_memory
from sunlab.modules.footprint import Footprint

GB = 2**30


@pytest.mark.parametrize(("gigabytes", "batch"), [(4, 0), (10, 2), (20, 6)])
def test_the_largest_batch(gigabytes, batch):
    """Weights and optimizer 4 GB, the first sample 3 GB more, each further one 2 GB, of 90 %."""
    one, four = (Footprint(2 * GB, GB, GB, n * GB) for n in (3, 9))
    fits = [n for n in range(1, 50) if 4 + 3 + 2 * (n - 1) <= 0.9 * gigabytes]
    assert plan_memory.largest_batch(one, four, gigabytes) == max(fits, default=0) == batch


def test_the_table(tiny_config, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plan_memory.py", str(tiny_config), "--memory", "0.00001", "1"])
    plan_memory.main()
    row = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert row[3] == "no" and int(row[4].strip(" |")) > 100
