"""A training that begins with the weights of an adapter file."""

import pytest
import torch
from safetensors.torch import load_file

from sunlab.cli.main import main
from sunlab.export import read_adapter

STILL = ("optimizer.lr=1.0e-12", "optimizer.schedule=constant", "callbacks=[]")
"""A training of which half-precision weights show nothing."""


@pytest.fixture
def fit(tiny_config, tmp_path, capfd):
    def fit(name: str, *words: str, code: int = 0) -> str:
        fixed = [f"run.dir={tmp_path}", f"run.name={name}", "trainer.max_steps=2"]
        assert main(["fit", "--config", str(tiny_config), *fixed, *words]) == code
        return capfd.readouterr().err

    return fit


def file_of(tmp_path, name):
    return tmp_path / name / "export" / "adapter.safetensors"


@pytest.mark.parametrize("adapter", ["sun", "lora", "sun_lora"])
def test_it_begins_with_the_weights_of_the_file(fit, tmp_path, adapter):
    fit("first", f"adapter={adapter}", "optimizer.lr=0.1")
    start = f"task={{name: adapter, start: {file_of(tmp_path, 'first')}}}"
    fit("second", f"adapter={adapter}", start, *STILL)
    fit("untrained", f"adapter={adapter}", *STILL)
    first, second, untrained = (load_file(file_of(tmp_path, name)) for name in ("first", "second", "untrained"))
    assert all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()
    assert any(not torch.equal(first[name], untrained[name]) for name in first)
    headers = [read_adapter(file_of(tmp_path, name)).header["training"] for name in ("first", "second", "untrained")]
    assert headers[1]["after"] == headers[0] and "after" not in headers[2]
    assert main(["export", str(file_of(tmp_path, "second")), "--out", str(tmp_path / "out" / "adapter.safetensors")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "2 steps, loss MSC; NFE: teacher" in card and "; after 2 steps, loss MSC; NFE: teacher" in card


def test_on_resume_the_checkpoint_counts(fit, tmp_path):
    fit("first", "optimizer.lr=0.1")
    start = f"task={{name: adapter, start: {file_of(tmp_path, 'first')}}}"
    fit("second", start, "optimizer.lr=0.1")
    before = load_file(file_of(tmp_path, "second"))
    fit("second", start, *STILL, "trainer.max_steps=3", "--resume", "last")
    after, first = load_file(file_of(tmp_path, "second")), load_file(file_of(tmp_path, "first"))
    closer = [(after[name] - before[name]).abs().max() < (after[name] - first[name]).abs().max() for name in before]
    assert all(closer)


def test_another_kind_or_other_switches_are_refused(fit, tmp_path):
    fit("first")
    start = f"task={{name: adapter, start: {file_of(tmp_path, 'first')}}}"
    said = fit("second", start, "adapter={name: sun, normalise: false}", code=78)
    assert "task.start" in said and "normalise: True" in said and "set adapter likewise" in said
    said = fit("second", start, "adapter=lora", code=78)
    assert "task.start" in said and "trained with name: 'sun'; set adapter" in said


def test_a_missing_or_foreign_file_is_named(fit, tmp_path):
    said = fit("second", f"task={{name: adapter, start: {tmp_path}/none.safetensors}}", code=65)
    assert "none.safetensors: no such adapter file" in said
    said = fit(
        "second", "task={name: adapter, start: emoji/sun_msc.safetensors}", "adapter={name: sun, normalise: false}", code=65
    )
    assert "sun_msc.safetensors" in said
