"""The ranks that srun or torchrun started, held against those that a configuration asks for."""

import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sunlab.errors import ConfigError

INTERACTIVE = ("bash", "interactive")  # job names of a shell on a node: its one task may start processes of its own
PORTS = (15000, 17000)  # the first, and how many: below those that Linux gives to outgoing connections


@dataclass(frozen=True)
class Ranks:
    """Processes of one run, started by `launcher`.

    Attributes:
        nodes, per_node: how many nodes, and processes on each.
        rank, local_rank, node: of this process: among all, among its node's, and its node's own number.
    """

    launcher: Literal["srun", "torchrun"]
    nodes: int
    per_node: int
    rank: int
    local_rank: int
    node: int

    @property
    def count(self) -> int:
        return self.nodes * self.per_node


def launched(environ: Mapping[str, str] = os.environ) -> Ranks | None:
    """Who started this process, None where nobody did: a run by itself, or processes that Lightning starts.

    torchrun counts before Slurm, inside whose jobs it may be used.

    Raises:
        ConfigError: nodes with different numbers of processes; or a Slurm job of several tasks in which srun is missing.
    """
    if "TORCHELASTIC_RUN_ID" in environ:
        count, per_node = int(environ["WORLD_SIZE"]), int(environ["LOCAL_WORLD_SIZE"])
        if count % per_node:
            raise ConfigError(f"torchrun started {count} processes, {per_node} on this node: give every node as many")
        rank, local_rank = int(environ["RANK"]), int(environ["LOCAL_RANK"])
        return Ranks("torchrun", count // per_node, per_node, rank, local_rank, int(environ["GROUP_RANK"]))
    tasks = int(environ.get("SLURM_NTASKS", "1"))
    if tasks == 1 and environ.get("SLURM_JOB_NAME") in INTERACTIVE:
        return None
    if "SLURM_STEP_ID" not in environ:
        if tasks > 1 and "LOCAL_RANK" not in environ:
            raise ConfigError(f"this Slurm job has {tasks} tasks and this command runs once: start it with srun")
        return None
    count, nodes = int(environ["SLURM_STEP_NUM_TASKS"]), int(environ["SLURM_STEP_NUM_NODES"])
    shape = environ["SLURM_STEP_TASKS_PER_NODE"]  # "2(x3)" for 2,2,2
    if not re.fullmatch(r"\d+(\(x\d+\))?", shape):
        raise ConfigError(f"Slurm put {shape} tasks on this step's nodes: give --ntasks-per-node, so that each has as many")
    rank, local_rank, node = (int(environ[f"SLURM_{name}"]) for name in ("PROCID", "LOCALID", "NODEID"))
    return Ranks("srun", nodes, count // nodes, rank, local_rank, node)


def first_rank() -> bool:
    """Whether this process is the first of its run, which alone writes and prints."""
    ranks = launched()
    return int(os.environ.get("LOCAL_RANK", "0")) == 0 if ranks is None else ranks.rank == 0


def require_ranks(trainer: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Ranks | None:
    """Look at what started this process before anything heavy is loaded.

    Args:
        trainer: the configuration's `trainer:`; `num_nodes` and `devices` left out or `auto` follow what was started.

    Raises:
        ConfigError: `num_nodes` or `devices` differ from what was started, or several nodes are asked for and nothing
            started them. Going on would hang, or train the same run several times into one folder.
    """
    found = launched(environ)
    if found is None:
        nodes = _count(trainer.get("num_nodes")) or 1
        if nodes > 1 and "NODE_RANK" not in environ:  # with which Lightning's own processes are placed by hand
            remedy = "use sunlab submit, srun or torchrun, or set trainer.num_nodes=1"
            raise ConfigError(f"trainer.num_nodes: {nodes} nodes are asked for, and nothing started them; {remedy}")
        return None
    wanted = {"num_nodes": found.nodes, "devices": found.per_node}
    for key, count in wanted.items():
        asked = _count(trainer.get(key))
        if asked is not None and asked != count:
            started = f"{found.launcher} started {found.per_node} processes on each of {found.nodes} nodes"
            remedy = f"set trainer.{key}={count}, or ask {found.launcher} for {asked}"
            raise ConfigError(f"trainer.{key}: {trainer[key]!r} asks for {asked}, but {started}; {remedy}")
    return found


def _count(value: Any) -> int | None:
    """Processes that `devices` or `num_nodes` means; None where the launcher decides."""
    if value is None or value in ("auto", -1, "-1"):
        return None
    if isinstance(value, (list, tuple)):
        return len(value)
    if isinstance(value, str):
        return len([part for part in value.split(",") if part.strip()]) if "," in value else int(value)
    return int(value)


def rendezvous(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Address and port at which the ranks of a Slurm step meet: the first node, and a port that other jobs on it, other
    steps of this job and an earlier start of it do not have. MASTER_ADDR and MASTER_PORT go before."""
    nodes = environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]
    (first,) = re.findall(r"^(?:[^,\[]|\[[^\]]*\])+", nodes)  # gpu-a[03-05,08]-x,b1 -> gpu-a[03-05,08]-x -> gpu-a03-x
    first = re.sub(r"\[(\d+)[^\]]*\]", r"\1", first)
    key = (
        int(environ["SLURM_JOB_ID"]) * 31 + int(environ["SLURM_STEP_ID"]) * 7 + int(environ.get("SLURM_RESTART_COUNT", "0"))
    )
    port = int(environ.get("MASTER_PORT") or PORTS[0] + key % PORTS[1])
    return environ.get("MASTER_ADDR") or first, port


def prefix() -> str:
    """What stands before an error of one of several ranks: `[rank 3 on gpu07] `."""
    rank, count = _place(os.environ)
    return f"[rank {rank} on {socket.gethostname()}] " if count > 1 else ""


def leaves_last(seconds: float = 2.0) -> bool:
    """Whether this is the rank by whose exit code a preempted run is judged: the first. It waits for the others to be
    gone. They leave with 0, since srun, torchrun and Lightning take any other code for a failure, and kill whoever is left,
    which would then hide the first one's 75."""
    rank, count = _place(os.environ)
    if rank == 0 and count > 1:
        time.sleep(seconds)
    return rank == 0


def _place(environ: Mapping[str, str]) -> tuple[int, int]:
    """This process's rank and how many there are, as far as the environment says; it need not make sense as a whole."""
    if "SLURM_STEP_ID" in environ and "TORCHELASTIC_RUN_ID" not in environ:
        return int(environ.get("SLURM_PROCID", "0")), int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    local = int(environ.get("LOCAL_RANK", "0"))  # all that the processes that Lightning starts on one machine are told
    return int(environ.get("RANK", local)), int(environ.get("WORLD_SIZE", local + 1))
