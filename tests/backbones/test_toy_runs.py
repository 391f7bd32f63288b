"""The toy backbone through whole runs: stored trajectories, training over them, evaluation of the adapter's file."""

from pathlib import Path

import pytest

from sunlab.app.evaluate import evaluate
from sunlab.app.fit import fit
from sunlab.app.trajectories import make_trajectories
from sunlab.config.load import load_config
from sunlab.testing.toy_backbone import ToyBackbone

MEANS = Path(__file__).parents[1] / "plugins" / "means.py"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Overrides for the toy as the base."""
    folder = tmp_path_factory.mktemp("toy")
    ToyBackbone.write_tiny(folder)
    return [f"model.base={folder}", f"plugins=[{MEANS}]", "teacher.steps=8", "student.steps=4", "trainer.max_steps=4"]


@pytest.fixture(scope="module")
def stored(words, tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trajectories")
    make_trajectories(load_config([tiny_config], words), out=folder, count=16)
    return [*words, f"data.source={{name: trajectories, path: {folder}}}"]


@pytest.mark.parametrize("loss", ["{name: trajectory}", "{name: msc, states: teacher, substeps: 1}"])
def test_it_trains_on_stored_trajectories_and_is_evaluated(loss, stored, tiny_config, tiny_shards, tmp_path):
    done = fit(load_config([tiny_config], [*stored, f"loss={loss}", f"run.dir={tmp_path}"]))
    (file,) = done["files"]
    told = ["count=3", "batch=4", "control=null", "timed=1", "shown=2", "reference_steps=3", "before.steps=2",
            "extractor=means_of_the_tests", "metrics=[paired_l2]", f"prompts={{name: shards, urls: [{tiny_shards}]}}",
            f"variants=[{{name: trained, adapter: {file}}}]"]  # fmt: skip
    loaded = load_config([tiny_config], [*stored[:2], f"run.dir={tmp_path / 'e'}", *(f"evaluate.{word}" for word in told)])
    report = evaluate(loaded)
    assert (report / "report.html").is_file() and "trained" in (report / "report.html").read_text()
