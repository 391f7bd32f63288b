"""A sweep on the cluster in which a node dies and a run is preempted ends as the undisturbed one of this machine does."""

import os
import signal

import pytest
from tiny_sweeps import MEANS, write_sweep

from sunlab.app.sweep import look
from sunlab.cli.main import main
from sunlab.files import read_json

pytestmark = pytest.mark.slurm

TIMES = ("training, s", "s / picture", "speed-up", "limit of the speed-up")
PATIENCE = 900  # seconds; a fraction of it where the processors are free


@pytest.fixture
def sweep_file(slow, tmp_path, tiny_config, tiny_shards):
    """Six runs that train, and one that draws with what the first of them trained."""
    one = [{"name": "one", "adapter": "{SUN}/export/adapter.safetensors", "steps": 1}]
    runs = [
        {"name": "SUN", "seeds": [0, 1, 2]},
        {"name": "faster", "seeds": [0, 1, 2], "overrides": {"optimizer.lr": 0.01}},
        {"name": "later", "needs": ["SUN"], "do": ["evaluate"], "overrides": {"evaluate.variants": one}},
    ]
    steps = {"callbacks": ["slow_of_the_tests"], "trainer.max_steps": 20, "run.checkpoint_every": 2}
    overrides = {"plugins": [MEANS, slow], **steps}
    return write_sweep(tmp_path / "grid.yaml", tiny_config, tiny_shards, dir="sweeps", list=runs, overrides=overrides)


def table(folder):
    """The rows that `collect` writes, but for times."""
    assert main(["sweep", "collect", str(folder)]) == 0
    rows = read_json(folder / "table.json")["rows"]
    for row in rows:
        row["numbers"] = {name: value for name, value in row["numbers"].items() if name not in TIMES}
    return rows


def adapters(folder):
    return {path.parts[-3]: path.read_bytes() for path in folder.glob("runs/*/export/adapter.safetensors")}


def attempts(folder):
    return sorted(read_json(path)["attempt"] for path in folder.glob("runs/*/status.json"))


def test_a_node_dies_and_a_run_is_preempted(on_slurm, sweep_file, tmp_path, until, monkeypatch, capsys):
    monkeypatch.setenv("SLOW_STEP", "0.5")
    words = ["sweep", "--config", str(sweep_file), "--launcher", "slurm"]
    words += ["launcher.sbatch={exclusive: true}", "name=disturbed"]
    assert main(words) == 0  # a run on each of three nodes, the others wait
    folder = tmp_path / "sweeps" / "disturbed"

    def at_work():
        """Folder and node of the runs that have a checkpoint."""
        told = on_slurm.ask("squeue", "--noheader", "--states=RUNNING", "--format=%i %N").splitlines()
        runs = {read_json(path)["handle"]: path.parent for path in folder.glob("runs/*/handle.json")}
        places = [(runs[job], node) for job, node in map(str.split, told)]
        return [(place, node) for place, node in places if (place / "checkpoints" / "last.ckpt").is_file()]

    (_, node), (preempted, _) = until(lambda: len(found := at_work()) > 1 and found[:2], PATIENCE, lambda: str(at_work()))
    os.kill(read_json(preempted / "status.json")["pid"], signal.SIGUSR1)  # scancel would send it again to the second start
    on_slurm.fail(node)
    assert main(["sweep", "status", str(folder)]) == 0
    assert "requeued" in capsys.readouterr().out
    assert table(folder) == [], "of runs that are not done nothing is counted"
    on_slurm.revive(node)
    until(lambda: all(s.state == "done" for s in look(folder)[1].values()), PATIENCE, lambda: str(look(folder)[1]))
    assert main(words) == 0, "nothing is queued twice"

    monkeypatch.delenv("SLOW_STEP")
    assert main(["sweep", "--config", str(sweep_file), "--launcher", "local", "name=undisturbed"]) == 0
    alone = tmp_path / "sweeps" / "undisturbed"
    assert attempts(folder) == [1] * 5 + [2] * 2 and attempts(alone) == [1] * 7
    assert [row["label"] for row in table(folder) if not row["reference"]] == ["SUN", "faster", "later"]
    assert table(folder) == table(alone) and "paired_l2" in str(table(folder))
    assert adapters(folder) == adapters(alone) and len(adapters(folder)) == 6
