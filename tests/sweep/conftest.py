"""A sweep file over the tiny base, whose runs train for three steps and are compared on three pictures."""

import json
from contextlib import suppress

import pytest

from sunlab.build_sweep import run
from sunlab.sweep.launchers import LAUNCHERS, Launcher

EXTRACTOR = '''
from sunlab.evaluation.extractors import EXTRACTORS, Extractor

@EXTRACTORS.register("means_of_sweeps")
class Means(Extractor):
    """Means of a picture's channels."""
    label, width = "Means", 3
    def __call__(self, images):
        return images.mean((2, 3))
'''
SMALL = {
    "trainer.log_every_n_steps": 1,
    "evaluate.count": 3,
    "evaluate.batch": 4,
    "evaluate.control": 0,
    "evaluate.timed": 1,
    "evaluate.shown": 2,
    "evaluate.reference_steps": 3,
    "evaluate.before.steps": 2,
    "evaluate.extractor": "means_of_sweeps",
    "evaluate.metrics": ["paired_l2"],
}


@pytest.fixture(scope="session")
def extractor_plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "means.py"
    path.write_text(EXTRACTOR)
    return str(path)


@pytest.fixture
def sweep_file(tmp_path, tiny_config, tiny_shards, extractor_plugin, monkeypatch):
    """Writes a sweep file with these keys, and returns its path. The sweep's folder is `sweeps/NAME` in the test's own."""
    monkeypatch.chdir(tmp_path)

    def write(stem="small", **keys):
        overrides = {**SMALL, "plugins": [extractor_plugin], "evaluate.prompts.urls": [tiny_shards]}
        values = {"dir": "sweeps", "launcher": "inline_of_the_test", "config": [str(tiny_config)], "seeds": [0], **keys}
        values["overrides"] = overrides | keys.get("overrides", {})
        path = tmp_path / f"{stem}.yaml"
        path.write_text(json.dumps(values))  # YAML too
        return path

    return write


@LAUNCHERS.register("inline_of_the_test")
class Inline(Launcher):
    """Runs in this process, as `local` does in others."""

    def script(self, jobs):
        return "".join(f"{job.folder}\n" for job in jobs)

    def submit(self, jobs, earlier):
        for job in jobs:
            with suppress(Exception):  # said in its status
                run(job.folder)
            yield job.id, "here"

    def states(self, handles):
        return {}

    def cancel(self, handles):
        raise AssertionError("nothing runs")
