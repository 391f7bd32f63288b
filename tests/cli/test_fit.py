"""`sunlab fit` with settings at the edge: what it says, and that it says it before the training."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sunlab.adapters.sun import SUN
from sunlab.app.evaluate import build_method
from sunlab.cli.main import main
from sunlab.config.schema import Accelerated
from sunlab.export import read_adapter, save_adapter
from sunlab.export.shapes import describe_base
from sunlab.precision import SWITCH

EVEN = ("optimizer.schedule=constant",)


@pytest.fixture
def fit(tiny_config, tmp_path, capsys):
    """Exit code and what was printed."""

    def fit(*words: str) -> tuple[int, str]:
        code = main(["fit", "--config", str(tiny_config), f"run.dir={tmp_path}", "trainer.logger=false", *words])
        told = capsys.readouterr()
        return code, told.out + told.err

    return fit


@pytest.fixture
def adapter_file(tiny_base, tmp_path) -> Callable[..., Path]:
    def make(**base) -> Path:
        adapter, backbone = SUN(), tiny_base.backbone
        adapter.attach(backbone)
        header = {"base": describe_base(backbone) | base}
        return save_adapter(tmp_path / "a.safetensors", adapter, header)

    return make


def before_after(longer: Path) -> str:
    return f"callbacks=[{{name: before_after, prompts: [a], negatives: [b], measured: 2, longer: {longer}}}]"


def test_no_step_is_said(fit):
    code, told = fit(*EVEN, "trainer.max_steps=0")
    assert code == 0 and "warning: " in told and "no step" in told
    assert "no step" not in fit("trainer.max_steps=1")[1]


def test_a_training_may_end_by_something_else_than_its_steps(fit):
    code, told = fit("trainer.max_steps=-1", "trainer.max_epochs=2", "trainer.limit_train_batches=1")
    assert code == 78 and "cosine" in told
    code, told = fit(*EVEN, "trainer.max_steps=-1", "trainer.max_epochs=2", "trainer.limit_train_batches=1")
    assert code == 0, told
    code, told = fit(*EVEN, "trainer.max_steps=-1", "trainer.max_time=00:00:00:01")
    assert code == 0, told


def test_trajectories_of_other_times_are_refused(fit, tiny_trajectories):
    source = f"data.source={{name: trajectories, path: '{tiny_trajectories}'}}"
    code, told = fit(source, "loss.states=teacher", "teacher.steps=24", "student.steps=3")
    assert code == 78 and "student.steps" in told and "[1.0, 0.75, 0.5, 0.25, 0.0]" in told


def test_shifted_times_are_in_the_file_and_drawn(fit, tiny_base, tmp_path):
    """shift t / (1 + (shift - 1) t) for shift = 1/2: 1, 3/5, 1/3, 1/7, in whole training steps."""
    code, told = fit("student.shift=0.5", "student.steps=4", "trainer.max_steps=1")
    assert code == 0, told
    file, times = tmp_path / "tiny" / "export" / "adapter.safetensors", (1.0, 0.6, 0.333, 0.143, 0.0)
    header = read_adapter(file).header
    assert header["shift"] == 0.5 and header["spacing"] == "trailing" and tuple(header["times"]) == times
    own, other = (build_method(Accelerated(adapter=str(file), shift=s), 3.0, tiny_base).sampling.grid for s in (None, 1.0))
    assert own == times and other == (1.0, 0.75, 0.5, 0.25, 0.0)


@pytest.mark.parametrize("value", ["0", "-1"])
@pytest.mark.parametrize("key", ["student", "teacher"])
def test_what_is_no_shift_is_refused(key, value, fit):
    code, told = fit(f"{key}.shift={value}")
    assert code == 78 and f"{key}.shift" in told and "above 0" in told


def test_the_other_adapter_is_looked_at_before_the_training(fit, adapter_file, tmp_path):
    code, told = fit(before_after(tmp_path / "none.safetensors"))
    assert code == 65 and "none.safetensors" in told
    damaged = adapter_file()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert fit(before_after(damaged))[0] == 65
    assert not list((tmp_path / "tiny").glob("checkpoints/*"))


def test_the_other_adapter_of_another_base_is_refused(fit, adapter_file, tmp_path):
    code, told = fit(before_after(adapter_file(cross_attention="0" * 64)))
    assert code == 65 and "before_after.longer" in told and "family" in told
    assert not list((tmp_path / "tiny").glob("checkpoints/*"))


def test_content_is_a_metric_of_pictures(fit):
    for metric in ("kid", "paired_l2", "psnr"):  # of features; a distance; in dB
        code, told = fit(f"callbacks=[{{name: before_after, prompts: [a], negatives: [b], content: {metric}}}]")
        assert code == 78 and "before_after.content" in told and "content_kept" in told
    code, told = fit("callbacks=[{name: before_after, prompts: [a], negatives: [b], content: contents_kept}]")
    assert code == 78 and "before_after.content" in told and "did you mean 'content_kept'" in told


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["trainer.precision=bf16-true"],
            ("trainer.precision", "'bf16-true'", "model.dtype"),
        ),
        ([*EVEN, "trainer.max_epochs=3"], ("trainer.max_epochs", "stream")),
        ([*EVEN, "trainer.limit_train_batches=0.5"], ("trainer.limit_train_batches", "stream")),
        (["trainer.precision=64"], ("trainer.precision", "64")),
        (["trainer.precision=bf16-mixed", "model.dtype=float16"], ("model.dtype=bfloat16",)),
        (["loss.segments=0"], ("steps", "1 ... 1000", "got 0")),
        (["student.steps=2000", "teacher.steps=2000"], ("steps", "1 ... 1000", "got 2000")),
        (["callbacks=[{name: ema, decay: 2}]"], ("'ema'", "decay", "[0, 1)", "2.0")),
        (["distance={name: huber, c: 0}"], ("'huber'", "c must be positive")),
    ],
)
def test_what_cannot_be_trained_is_a_wrong_configuration(fit, words, parts, monkeypatch):
    monkeypatch.setenv(SWITCH, "1")  # a CPU without bfloat16 warns of bf16-mixed first
    code, told = fit(*words)
    assert code == 78 and all(part in told for part in parts), told
