"""What a device computes natively, and the precision that a run takes, records and keeps."""

import warnings
from pathlib import Path

import pytest
import torch
from yaml import safe_load

from sunlab import precision
from sunlab.app.compose import settle
from sunlab.cli.main import main
from sunlab.config.auto import recorded
from sunlab.config.load import load_config
from sunlab.config.read import read_file

ROOT = Path(__file__).parents[1]
LAB = [ROOT / "configs" / "quickstart.yaml", *sorted((ROOT / "configs" / "emoji").glob("*.yaml"))]
EMULATED = ("ONEDNN_MAX_CPU_ISA", precision.SWITCH)


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch, tmp_path):
    """No switch is set; /proc/cpuinfo is what a test says."""
    for name in EMULATED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")


def flags(words: str) -> None:
    precision.CPUINFO.write_text(f"processor\t: 0\nflags\t\t: fpu avx2 {words} fma\n")


@pytest.mark.parametrize(
    ("words", "bf16"),
    [
        ("avx512f avx512_bf16", True),
        ("amx_tile amx_bf16", True),
        ("asimd bf16 i8mm", True),
        ("avx512f avx512_vnni", False),
        ("svebf16x", False),
        ("", False),
    ],
)
def test_a_cpu_by_the_flags_of_its_kernel(words, bf16):
    flags(words)
    found = precision.native("cpu")
    assert found.bf16 is bf16
    assert (found.precision, found.dtype) == (("bf16-mixed", "bfloat16") if bf16 else ("32-true", "float32"))


def test_a_system_without_cpuinfo_has_float32():
    assert not precision.native("cpu").bf16


@pytest.mark.parametrize(
    ("isa", "bf16"), [("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True), ("ALL", True)]
)
def test_onednn_may_be_kept_from_the_instructions(isa, bf16, monkeypatch):
    flags("avx512_bf16")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert precision.native("cpu").bf16 is bf16


@pytest.mark.parametrize("answer", ["0", "1"])
def test_the_switch_goes_over_the_machine(answer, monkeypatch):
    flags("" if answer == "1" else "avx512_bf16")
    monkeypatch.setenv(precision.SWITCH, answer)
    assert precision.native("cpu").bf16 is (answer == "1")


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_by_what_torch_says(native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    found = precision.native("cuda:0")
    assert found.bf16 is native and "a card" in found.reason


@pytest.mark.parametrize("value", ["bf16-mixed", "16-mixed", "bfloat16"])
def test_a_slow_bf16_is_warned_of_with_its_cost(value, monkeypatch):
    monkeypatch.setattr(precision, "slowdown", lambda: 68.75)
    with pytest.warns(UserWarning, match=r"trainer\.precision=.*68\.8 times as long.*trainer\.precision=auto.*32-true"):
        precision.warn_if_slow(value, "cpu", key="trainer.precision")


@pytest.mark.parametrize(("value", "words"), [("32-true", ""), ("float32", ""), ("bf16-mixed", "avx512_bf16"), ("", "")])
def test_nothing_else_is_warned_of(value, words):
    flags(words)
    precision.warn_if_slow(value, "cpu", key="trainer.precision")
    precision.warn_if_slow(value, "cuda", key="trainer.precision")


def test_the_cost_is_measured():
    assert 0 < precision.slowdown() < 1e4


@pytest.mark.parametrize("path", LAB, ids=lambda path: path.stem)
def test_every_training_of_the_lab_adapts_to_the_machine(path):
    trainer = read_file(path).get("trainer", {})
    assert trainer.get("precision", "auto") == "auto"


@pytest.mark.parametrize(("answer", "expected"), [("0", "32-true"), ("1", "bf16-mixed")])
def test_a_run_says_it_once_records_it_and_keeps_it(answer, expected, tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(precision.SWITCH, answer)
    monkeypatch.setattr(precision, "slowdown", lambda: 9.0)
    words = ["--config", str(tiny_config), f"run.dir={tmp_path}", "trainer.precision=auto", "trainer.logger=false"]
    assert main(["fit", *words, "trainer.max_steps=1", "optimizer.schedule=constant"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "precision" in line]
    assert said == [f"trainer.precision: auto is {expected} ({precision.SWITCH}={answer})"]
    file = tmp_path / "tiny" / "config.yaml"
    assert safe_load(file.read_text())["trainer"]["precision"] == expected
    # On another kind of machine the run goes on as it began; only a new one would decide anew.
    monkeypatch.setenv(precision.SWITCH, "1" if answer == "0" else "0")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(["fit", *words, "trainer.max_steps=2", "optimizer.schedule=constant", "--resume", "last"]) == 0
    assert safe_load(file.read_text())["trainer"]["precision"] == expected
    assert f"auto is {expected} (as the run began)" in capsys.readouterr().out
    assert any("9.0 times as long" in str(warning.message) for warning in caught) is (expected == "bf16-mixed")


def test_the_weights_type_is_decided_likewise(tiny_config, monkeypatch, capsys):
    loaded = load_config([tiny_config], ["model.dtype=auto", "trainer.precision=auto"])
    for answer, dtype in (("1", "bfloat16"), ("0", "float32")):
        monkeypatch.setenv(precision.SWITCH, answer)
        settled = settle(loaded, "cpu")
        assert settled.config.model.dtype == dtype and f"dtype: {dtype}" in settled.to_yaml()
        assert capsys.readouterr().out == f"model.dtype: auto is {dtype} ({precision.SWITCH}={answer})\n"
        assert precision.dtype_on("auto", "cpu") is getattr(torch, dtype)


def test_a_record_replaces_auto_and_nothing_else(tmp_path):
    file = tmp_path / "config.yaml"
    tree = {"trainer": {"precision": "auto", "max_steps": 3}, "model": {"dtype": "float32"}}
    assert recorded(tree, file) == tree
    file.write_text("trainer: {precision: 32-true, max_steps: 9}\nmodel: {dtype: bfloat16}\n")
    assert recorded(tree, file) == {"trainer": {"precision": "32-true", "max_steps": 3}, "model": {"dtype": "float32"}}
