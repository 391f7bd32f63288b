"""`tools/train_classifier.py`: it trains a small one, and measures one over the pictures whose emoji that one knows."""

import re
import sys

import pytest

import train_classifier
from sunlab.lab.classifier import WEIGHTS, load_classifier

SHARDS = ["--shards", "emoji/noto/test-*.tar.gz"]


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["train_classifier.py", *arguments])
    train_classifier.main()
    return capsys.readouterr().out


def test_the_shipped_one_is_measured(monkeypatch, capsys):
    told = run(monkeypatch, capsys, "--measure", WEIGHTS, *SHARDS)
    found = re.fullmatch(r"138 of 138 pictures: emoji top-1 ([\d.]+)%, top-5 ([\d.]+)%, background .*%, size .*%\n", told)
    assert found and float(found[1]) > 95 and float(found[2]) >= float(found[1])


def test_one_of_few_names_is_trained_and_measured_on_those(monkeypatch, capsys, tmp_path):
    file = tmp_path / "c.safetensors"
    unseen = "emoji/noto/unseen-*.tar.gz"  # four emoji
    told = run(monkeypatch, capsys, "--out", str(file), "--shards", unseen, "--steps", "3", "--width", "4", "--batch", "4")
    assert told.count("held-out combinations") == 4 and len(load_classifier(file).labels["emoji"]) == 4
    told = run(monkeypatch, capsys, "--measure", str(file), "--shards", unseen, "emoji/noto/test-*.tar.gz")
    assert told.startswith("64 of 202 pictures: ")


def test_one_of_both_is_needed(monkeypatch, capsys):
    for arguments in ((), ("--out", "a", "--measure", "b")):
        with pytest.raises(SystemExit):
            run(monkeypatch, capsys, *arguments)
        assert re.search("required|not allowed", capsys.readouterr().err)
