"""Values for a scheduler are kept as they were written."""

import pytest
import yaml

from sunlab.cli.main import main
from sunlab.config.read import read_file, read_override
from sunlab.config.written import as_written

CHANGED = [
    "16:00",
    "4:00:00",
    "0123",
    "007",
    "1e3",
    "0x1F",
    "0o17",
    "no",
    "yes",
    "on",
    "off",
    "1_000",
    "+5",
    "2-12:30",
    "12e1",
]
SAME = {"64": 64, "0.5": 0.5, "true": True, "False": False, "null": None, '"16:00"': "16:00", "'007'": "007", "64G": "64G"}


@pytest.mark.parametrize("text", CHANGED)
def test_what_yaml_reads_differently_stays_text(text):
    assert as_written(yaml.safe_load(text), text) == text
    assert read_override(f"launcher.sbatch.begin={text}") == ("launcher.sbatch.begin", text)


@pytest.mark.parametrize(("text", "value"), SAME.items())
def test_what_reads_the_same_stays_a_value(text, value):
    found = as_written(yaml.safe_load(text), text)
    assert found == value and type(found) is type(value)


def test_mappings_and_lists():
    text = "{begin: 16:00, list: [1:30, 5, no], inner: {comment: no, exclusive: true}}"
    assert as_written(yaml.safe_load(text), text) == {
        "begin": "16:00", "list": ["1:30", 5, "no"], "inner": {"comment": "no", "exclusive": True},
    }  # fmt: skip


def test_a_file_and_nothing_but_its_launcher(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("launcher: {account: 007, time: 4:00:00, sbatch: {begin: 16:00}}\nseed: 0x1F\n")
    assert read_file(file) == {"launcher": {"account": "007", "time": "4:00:00", "sbatch": {"begin": "16:00"}}, "seed": 31}


def test_the_script_has_them_as_written(tiny_config, tmp_path, capsys):
    words = "launcher.sbatch={begin: 16:00, time-min: 1:30:00, reservation: 0123, comment: no, mem_per_cpu: 4000}"
    assert (
        main(["submit", "--config", str(tiny_config), "--dry-run", f"run.dir={tmp_path}", words, "launcher.time=4:00:00"])
        == 0
    )
    said = capsys.readouterr().out.splitlines()
    for line in ("begin=16:00", "time-min=1:30:00", "reservation=0123", "comment=no", "mem-per-cpu=4000", "time=4:00:00"):
        assert f"#SBATCH --{line}" in said


def test_a_number_for_text_is_refused_with_the_remedy(tiny_config, tmp_path, capsys):
    words = ["submit", "--config", str(tiny_config), "--dry-run", f"run.dir={tmp_path}", "launcher.account=12345"]
    assert main(words) == 78
    said = capsys.readouterr().err
    assert "account" in said and "12345" in said and "quotes" in said
