"""A real Slurm of several nodes on this machine: every node is a slurmd of its own, all listen on this machine only.

No accounting, no cgroups, no GPUs; nodes share the machine's processors. A job of partition `main` preempts those of `low`:
they are sent the signal that they asked for, have 30 s, and are put back into the queue.
"""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
{listen}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
ReturnToService=2
SlurmdTimeout=60
KillWait=10
MinJobAge=3600
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
"""


class Unavailable(Exception):
    """No Slurm can be started here, and why."""


class Cluster:
    """Started by `up`. Attributes: folder, with all that it writes; env, for Slurm's commands and for jobs."""

    def __init__(self, names: list[str], cpus: int):
        self.names, self.cpus = names, cpus
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # its sockets' names must be short
        self.folder.chmod(0o755)
        self.env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen] = {}

    def up(self) -> None:
        missing = [name for name in COMMANDS if shutil.which(name, path=PATH) is None]
        if missing:
            raise Unavailable(f"{', '.join(missing)} not installed (Debian: munge slurmctld slurmd slurm-client)")
        for name in ("state", *(f"spool.{node}" for node in self.names)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        (self.folder / "slurm.conf").write_text(self._conf())
        files = {"key-file": key, "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
        options = [f"--{k}={self.folder / v}" for k, v in {**files, "seed-file": "munge.seed"}.items()]
        self._start("munged", "munged", "--foreground", *options)
        self._until(lambda: self.ask("munge", "-S", str(self.folder / "munge.socket"), "-n"), 20)
        self._start("slurmctld", "slurmctld", "-D")
        for node in self.names:
            self._start(node, "slurmd", "-D", "-N", node)
        self._until(self._ready, 60)

    def down(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError, Unavailable, FileNotFoundError):
            self.ask("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
            self.ask("scancel", f"--user={getpass.getuser()}")
            self._until(lambda: not self.ask("squeue", "--noheader"), 20)
        for name in reversed(list(self.daemons)):
            self._stop(name, signal.SIGTERM)
        for pid in self._processes():  # of jobs that would not end
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, *words: str) -> str:
        """What one of Slurm's commands prints."""
        return subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60, check=True).stdout

    def fail(self, node: str) -> None:
        """A crash: the node's daemon and all that it runs die at once, and the controller sees it."""
        self._stop(node, signal.SIGKILL)
        tasks = [pid for pid in self._processes() if f"SLURMD_NODENAME={node}".encode() in _environ(pid)]
        parents = {_parent(pid) for pid in tasks}
        for pid in [*(p for p in parents if p and "slurmstepd" in _command(p)), *tasks]:  # who would report first
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def revive(self, node: str) -> None:
        self._start(node, "slurmd", "-D", "-N", node)
        self.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self._until(self._ready, 60)

    def _conf(self) -> str:
        host = socket.gethostname().split(".")[0]
        loopback = socket.gethostbyname(host).startswith("127.")
        ports = free_ports(1 + len(self.names))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} RealMemory={memory}"
            for node, port in zip(self.names, ports[1:], strict=True)
        ]
        listen = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny" if loopback else ""
        return CONF.format(
            host=host, port=ports[0], user=getpass.getuser(), folder=self.folder, nodes="\n".join(nodes), listen=listen
        )

    def _start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                words,
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _stop(self, name: str, number: int) -> None:
        daemon = self.daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(timeout=20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _ready(self) -> bool:
        states = self.ask("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split()
        return len(states) == len(self.names) and set(states) <= {"idle", "mixed", "allocated", "completing"}

    def _until(self, true: Callable[[], object], seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(subprocess.SubprocessError):
                if true():
                    return
            if time.monotonic() > end:
                said = "".join(f.read_text(errors="replace")[-400:] for f in self.folder.glob("*.out"))
                raise Unavailable(f"Slurm was not ready within {seconds:.0f} s: {said.strip()}")
            time.sleep(0.1)

    def _processes(self) -> Iterator[int]:
        """Those of jobs of this cluster."""
        mine = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        yield from (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and mine in _environ(int(p.name)))


@contextlib.contextmanager
def named(names: list[str]) -> Iterator[bool]:
    """Let the nodes' names mean this machine, where /etc/hosts may be written."""
    hosts = Path("/etc/hosts")
    line = f"127.0.0.1 {' '.join(names)} # of sunlab's tests, process {os.getpid()}\n"
    if not os.access(hosts, os.W_OK):
        yield False
        return
    with hosts.open("a") as file:
        file.write(line)
    try:
        yield True
    finally:
        hosts.write_text(hosts.read_text().replace(line, ""))  # in place: it may be a bind mount


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        return int(re.search(r"PPid:\s*(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1))
    except OSError:
        return 0


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
