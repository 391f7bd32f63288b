"""Exit codes, and messages of a few lines with the remedy."""

import argparse
import sys
import warnings

import pytest

from registry import RegistryError
from sunlab.cli import fit as fit_command
from sunlab.cli.main import main, parse
from sunlab.errors import ConfigError, DataError, Preempted, StorageError


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text("loss: msc\ntrainer: {max_steps: 3}\n")
    return str(path)


@pytest.mark.parametrize(
    ("override", "says"), [("loss.segmets=3", "did you mean 'segments'?"), ("loss=mcs", "did you mean 'msc'?")]
)
def test_a_wrong_plug_or_parameter_ends_with_78(tiny, capsys, override, says):
    assert main(["fit", "--config", tiny, override]) == 78
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error and len(error.splitlines()) <= 3


def test_a_missing_config_ends_with_78(tiny, capsys):
    assert main(["fit", "--config", tiny.replace("tiny", "tinny")]) == 78
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--debug", "fit"], ["fit", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(tiny, capsys, argv):
    assert main([*argv, "--config", tiny, "loss=mcs"]) == 78
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 78),
        (RegistryError("x"), 78),
        (DataError("x"), 65),
        (StorageError("x"), 74),
        (PermissionError(13, "not allowed", "x"), 74),
        (Preempted("x"), 75),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_code(tiny, capsys, monkeypatch, error, code):
    def load(args: argparse.Namespace):
        raise error

    monkeypatch.setattr(fit_command, "load", load)
    assert main(["fit", "--config", tiny]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_of_the_system_names_its_file(tiny, capsys, monkeypatch):
    def load(args: argparse.Namespace):
        raise NotADirectoryError(20, "Not a directory", "afile/quickstart")

    monkeypatch.setattr(fit_command, "load", load)
    assert main(["fit", "--config", tiny]) == 74
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "afile/quickstart" in told and "Traceback" not in told


def test_a_warning_is_one_line(tiny, capsys, monkeypatch):
    def load(args: argparse.Namespace):
        sys.stderr.write(warnings.formatwarning("look out", UserWarning, "some/where.py", 3))
        raise ConfigError("x")

    usual = warnings.formatwarning
    monkeypatch.setattr(fit_command, "load", load)
    main(["fit", "--config", tiny])
    assert capsys.readouterr().err == "warning: look out\nerror: x\n"
    assert warnings.formatwarning is usual
    main(["fit", "--config", tiny, "--debug"])
    assert "some/where.py:3: UserWarning" in capsys.readouterr().err


def test_a_folder_is_no_config(tmp_path, capsys):
    (tmp_path / "a.yaml").touch()
    assert main(["fit", "--config", str(tmp_path)]) == 78
    assert str(tmp_path) in (told := capsys.readouterr().err) and "a.yaml" in told


def test_a_bug_is_no_error_of_the_users(tiny, monkeypatch, capsys):
    monkeypatch.setattr(fit_command, "load", lambda args: 1 / 0)
    assert main(["fit", "--config", tiny]) == 70
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told and "--debug" in told and "Traceback" not in told
    assert main(["fit", "--config", tiny, "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_overrides_may_stand_anywhere():
    args = parse(["fit", "a=1", "--config", "x.yaml", "b=2", "--plugin", "p.py", "c=3"])
    assert (args.overrides, args.config, args.plugin) == (["a=1", "b=2", "c=3"], ["x.yaml"], ["p.py"])


@pytest.mark.parametrize("argv", [["fit", "--config", "x", "--rezume"], ["list", "losses", "msc", "more"], ["fit"], []])
def test_wrong_arguments_end_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("1h30m", 5400), ("90s", 90), ("45", 45), ("0.5h", 1800)])
def test_durations(text, seconds):
    assert fit_command.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "ten", "10 m", "m", "10x", "-3s"])
def test_what_is_no_duration(text):
    with pytest.raises(argparse.ArgumentTypeError):
        fit_command.duration(text)


def test_a_configuration_without_a_base_says_what_to_give(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("task: teacher\n")
    assert main(["fit", "--config", str(tmp_path / "mine.yaml")]) == 78
    told = capsys.readouterr().err
    assert "model.base" in told and "emoji-sd" in told and "Traceback" not in told


def test_a_training_without_data_says_what_to_give(tiny_base_folder, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(f"task: teacher\nmodel: {{base: '{tiny_base_folder}'}}\n")
    assert main(["fit", "--config", str(tmp_path / "mine.yaml")]) == 78
    assert "data.source" in capsys.readouterr().err
