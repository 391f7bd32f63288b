"""Settings of the trainer that look into a run: they say what Lightning documents and leave a finished run alone."""

from hashlib import sha256

import pytest

from sunlab.cli.main import main


@pytest.fixture
def fit(tiny_config, tmp_path, capfd, caplog):
    def fit(*words: str) -> str:
        fixed = [f"run.dir={tmp_path}", "optimizer.schedule=constant", "trainer.max_steps=2", "run.name=real"]
        code = main(["fit", "--config", str(tiny_config), *fixed, *words])
        told = capfd.readouterr()
        assert code == 0, told.err
        return told.out + told.err + caplog.text  # where pytest has its handler, Lightning adds none

    return fit


def files(folder):
    return {
        path: (path.stat().st_mtime_ns, sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_trial_leaves_a_finished_run_alone(fit, tmp_path):
    fit()
    before = files(tmp_path)
    assert any(path.suffix == ".safetensors" for path in before)
    said = fit("trainer.fast_dev_run=true")
    assert "fast_dev_run: 1 steps were trained, nothing is written" in said
    assert files(tmp_path) == before
    fit("trainer.fast_dev_run=2", "--resume", "last")
    assert files(tmp_path) == before


def test_a_trial_leaves_nothing_behind(fit, tmp_path):
    known = files(tmp_path)
    fit("trainer.fast_dev_run=true", "run.name=never")
    assert files(tmp_path) == known


def test_the_profilers_report_is_printed(fit):
    assert "Profiler Report" in fit("trainer.profiler=simple")


def test_the_summary_of_the_model_is_printed(fit):
    assert "Trainable params" in fit("trainer.enable_model_summary=true")
