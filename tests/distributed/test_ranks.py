"""What srun or torchrun started, and what a configuration asks for."""

import pytest

from sunlab.cli.main import main
from sunlab.distributed.ranks import Ranks, launched, prefix, rendezvous, require_ranks
from sunlab.errors import ConfigError

SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "sun",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "gpu-a[03-04]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
}


@pytest.fixture
def started(monkeypatch):
    def start(environ):
        for key, value in environ.items():
            monkeypatch.setenv(key, value)

    return start


def test_who_started_this_process():
    assert launched({}) is None
    assert launched(SRUN) == Ranks("srun", 2, 2, 3, 1, 1)
    assert launched(TORCHRUN) == Ranks("torchrun", 2, 2, 3, 1, 1)
    assert launched({**SRUN, **TORCHRUN}).launcher == "torchrun"
    assert launched({**SRUN, "SLURM_JOB_NAME": "bash"}).count == 4  # Lightning would not see Slurm here


def test_a_shell_on_a_node_may_start_its_own_processes():
    shell = {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
    assert launched({**SRUN, **shell}).count == 1
    assert launched({**SRUN, **shell, "SLURM_JOB_NAME": "interactive"}) is None
    assert launched({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}) is None


def test_srun_is_missing():
    job = {k: v for k, v in SRUN.items() if "STEP" not in k}
    with pytest.raises(ConfigError, match="4 tasks and this command runs once: start it with srun"):
        launched(job)


def test_uneven_nodes():
    with pytest.raises(ConfigError, match="2,1 tasks"):
        launched({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2,1"})
    with pytest.raises(ConfigError, match="give every node as many"):
        launched({**TORCHRUN, "WORLD_SIZE": "3"})


@pytest.mark.parametrize("environ", [SRUN, TORCHRUN], ids=["srun", "torchrun"])
def test_agreement(environ, started):
    started(environ)
    for trainer in ({}, {"devices": "auto"}, {"devices": -1}, {"devices": 2, "num_nodes": 2}, {"devices": "0,1"}):
        assert require_ranks(trainer).count == 4
    for trainer, message in {
        "devices": ({"devices": 1}, r"trainer.devices: 1 asks for 1, but \w+ started 2 processes on each of 2 nodes"),
        "list": ({"devices": [0, 1, 2]}, "set trainer.devices=2, or ask "),
        "nodes": ({"num_nodes": 1, "devices": 2}, "trainer.num_nodes: 1 asks for 1"),
    }.values():
        with pytest.raises(ConfigError, match=message):
            require_ranks(trainer)


def test_nodes_that_nobody_started():
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes: 2 nodes .* nothing started them; use sunlab submit"):
        require_ranks({"num_nodes": 2}, {})
    assert require_ranks({"num_nodes": 2}, {"NODE_RANK": "1"}) is None  # Lightning's own, placed by hand
    assert require_ranks({"num_nodes": 1, "devices": 2}, {}) is None


def test_refused_before_anything_loads(started, tiny_config, monkeypatch, capsys):
    started(SRUN)
    monkeypatch.setitem(__import__("sys").modules, "sunlab.app.fit", None)  # importing it would fail
    assert main(["fit", "--config", str(tiny_config), "trainer.devices=1"]) == 78
    assert "[rank 3 on " in (said := capsys.readouterr().err) and "set trainer.devices=2" in said


def test_rendezvous():
    address, port = rendezvous(SRUN)
    assert address == "gpu-a03" and 15000 <= port < 32000
    others = [{"SLURM_STEP_ID": "1"}, {"SLURM_JOB_ID": "4712"}, {"SLURM_RESTART_COUNT": "1"}]
    assert port not in {rendezvous({**SRUN, **other})[1] for other in others}
    names = {"n7,n[9-10]": "n7", "n[9,11-12],n7": "n9", "r[2-3]n[04-05]-ib": "r2n04-ib", "gpu-1": "gpu-1"}
    assert {nodes: rendezvous({**SRUN, "SLURM_STEP_NODELIST": nodes})[0] for nodes in names} == names
    assert rendezvous({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}) == ("10.0.0.1", 29500)


def test_one_process_has_no_rank_in_its_errors():
    assert prefix() == ""
