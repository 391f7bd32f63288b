"""Small sweeps, run in the test's own process."""

from contextlib import suppress

import pytest
from tiny_sweeps import write_sweep

from sunlab.app.sweep import run
from sunlab.sweep.launchers import LAUNCHERS, Launcher


@pytest.fixture
def sweep_file(tmp_path, tiny_config, tiny_shards, monkeypatch):
    """Writes a sweep file with these keys, and returns its path. The sweep's folder is `sweeps/NAME` in the test's own."""
    monkeypatch.chdir(tmp_path)

    def write(stem="small", **keys):
        values = {"dir": "sweeps", "launcher": "inline_of_the_test", **keys}
        return write_sweep(tmp_path / f"{stem}.yaml", tiny_config, tiny_shards, **values)

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
