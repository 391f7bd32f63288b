"""The table of a sweep: means and intervals over seeds, differences that are paired, and only what is done."""

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from math import sqrt

import pytest

from sunlab.app.sweep import look
from sunlab.files import write_json
from sunlab.sweep.collect import collect
from sunlab.sweep.folder import run_folder, write_plan
from sunlab.sweep.grid import plan
from sunlab.sweep.numbers import gather
from sunlab.sweep.record import here, write_status
from sunlab.sweep.spec import load_sweep


def report(name, value, subsets):
    def row(label, reference, value=None, subsets=()):
        found = {"value": value, "error": 0.01, "paired": True, "pairs": 16, "share": 2 * (value or 0), "subsets": subsets}
        values = {} if value is None else {"paired_l2": found}
        return {
            "name": label,
            "reference": reference,
            "passes" if reference else "nfe": 4.0,  # the former key and the present one
            "seconds": 0.5,
            "speedup": 2.0,
            "values": values,
            "control_shares": {"background": None if reference else 0.9},
        }

    rows = [row("teacher", True), row("longer", True, 0.01), row(name, False, value, subsets)]
    return {"extractor": "Means", "pairs": 16, "bases": [{"base": "b<a>se", "rows": rows}]}


@pytest.fixture
def folder(sweep_file):
    """Two methods, one with three seeds; one run failed, one is half done."""
    sweep = load_sweep(
        [
            sweep_file(
                baseline="A",
                list=[
                    {"name": "A", "seeds": [0, 1, 2]},
                    {"name": "B", "overrides": {"loss": "cfg"}, "grid": {"optimizer.lr": [0.1, 0.2]}},
                    {"name": "C|", "overrides": {"loss": "lcm"}, "seeds": [0, 1]},
                ],
            )
        ]
    )
    runs = plan(sweep)
    folder = write_plan(sweep, runs)
    values = {"A, seed 0": 0.1, "A, seed 1": 0.2, "A, seed 2": 0.3, "C|, seed 0": 0.5, "C|, seed 1": 0.55}
    values |= {"B, optimizer.lr=0.1, seed 0": 0.4}
    for run in runs:
        place = run_folder(folder, run)
        if run.name in values:
            value = values[run.name]
            found = report("4 steps", value, [value - 0.01, value + 0.01])
            write_json(place / "metrics.json", {"training": {"equivalents": 900, "seconds": 3.0}, "evaluation": found})
            write_status(place, replace(here(1), state="done", ended=1.0, exit_code=0))
    half = runs[-1]
    write_status(run_folder(folder, half), replace(here(1), state="stopped"))  # its metrics are there, and do not count
    return folder


def rows_of(folder):
    return {row.name: row for row in gather(folder, *look(folder), "A")}


def test_means_and_intervals_over_seeds(folder):
    rows = rows_of(folder)
    number = rows["A, 4 steps"].numbers["paired_l2"]
    assert number.mean == pytest.approx(0.2) and number.over == "seeds" and number.share == pytest.approx(0.4)
    assert number.error == pytest.approx(4.303 * 0.1 / sqrt(3))  # Student's t of 2 degrees of freedom
    alone = rows["B, optimizer.lr=0.1, 4 steps"].numbers["paired_l2"]
    assert (alone.mean, alone.error, alone.over) == (0.4, 0.01, "pairs")
    assert rows["A, 4 steps"].numbers["training, NFE"].mean == 900
    assert rows["A, 4 steps"].numbers["negative control, background"].mean == 0.9
    assert list(rows)[:2] == ["teacher", "longer"] and len(rows) == 5


def test_a_run_that_is_not_done_does_not_count(folder):
    assert rows_of(folder)["C|, 4 steps"].seeds == (0,)


def test_differences_are_paired(folder):
    rows = rows_of(folder)
    assert rows["A, 4 steps"].beside == {} and rows["longer"].beside == {}
    one = rows["C|, 4 steps"].beside["paired_l2"]  # one seed: the means of A's three, subset by subset
    assert one.mean == pytest.approx(0.3) and one.over == "pairs" and one.error == pytest.approx(0, abs=1e-12)


def test_several_common_seeds_give_an_interval_of_seeds(folder):
    runs, standings = look(folder)
    last = standings[runs[-1].id]
    rows = {row.name: row for row in gather(folder, runs, {**standings, runs[-1].id: replace(last, state="done")}, "A")}
    number = rows["C|, 4 steps"].beside["paired_l2"]
    assert number.each == pytest.approx({0: 0.4, 1: 0.35}) and number.over == "seeds"
    assert number.error == pytest.approx(12.706 * 0.05 / sqrt(2) / sqrt(2))


def test_the_files(folder):
    files = collect(folder, *look(folder), baseline="A")
    assert {"table.md", "table.csv", "table.json", "report.html", "plot-0-paired_l2.png"} <= {file.name for file in files}
    table = (folder / "table.md").read_text()
    assert "5 of 7 runs are done" in table and "1 stopped" in table and "| A, 4 steps | 3 | 4 | 0.2 ± 0.25 (40.0%)" in table
    assert "0.4 ± 0.01* (80.0%)" in table and "| C\\|, 4 steps |" in table and "minus A" in table
    lines = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    found = {(line["label"], line["name"]): line for line in lines}
    assert float(found["A", "paired_l2"]["mean"]) == pytest.approx(0.2) and found["A", "s / picture"]["error"] == "0.0"
    record = json.loads((folder / "table.json").read_text())
    assert record["states"] == {"done": 5, "pending": 1, "stopped": 1} and len(record["rows"]) == 5
    html = (folder / "report.html").read_text()
    HTMLParser().feed(html)
    assert "b&lt;a&gt;se" in html and "<script" not in html and html.count("data:image/png") == 1
