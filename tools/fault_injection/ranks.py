"""`sunlab fit` on several ranks, started in a moment: forked from this process, which has imported everything already."""

import atexit
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

Main = Callable[[Sequence[str]], int]
SHM = Path("/dev/shm")
PATIENCE = 60.0  # seconds in which a run must have ended once one of its processes died
LEAVING = 2.0  # seconds that processes have to be gone after the ranks


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        codes: of each rank: the exit code, or minus the signal that ended it; None where it had to be killed at last.
        logs: what each rank printed.
        seconds: from the start to the last rank's end.
        orphans: processes of the run that were still there, as "pid name"; they are killed then.
        leaked: files that the run left in /dev/shm.
    """

    codes: list[int | None]
    logs: list[str]
    seconds: float
    orphans: list[str]
    leaked: list[str]

    @property
    def clean(self) -> bool:
        return not self.orphans and not self.leaked and None not in self.codes

    @property
    def log(self) -> str:
        return "\n".join(self.logs)


@dataclass
class Job:
    """Ranks that were started. Each leads a session of its own, by which its loader workers are found."""

    pids: list[int]
    logs: list[Path]
    shm: set[str]
    begun: float = field(default_factory=time.monotonic)
    codes: dict[int, int] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)  # rank -> monotonic time

    def running(self) -> list[int]:
        """Ranks (not process ids) that have not ended."""
        for rank, pid in enumerate(self.pids):
            if rank not in self.codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.codes[rank] = os.waitstatus_to_exitcode(status)
                    self.ended[rank] = time.monotonic()
        return [rank for rank in range(len(self.pids)) if rank not in self.codes]

    def kill(self, ranks: Sequence[int], number: int = signal.SIGKILL) -> None:
        for rank in ranks:
            if rank in self.running():
                os.kill(self.pids[rank], number)

    def workers(self, rank: int) -> list[int]:
        """Process ids of the loader workers of a rank."""
        return [pid for pid, session in sessions().items() if session == self.pids[rank] and pid != session]

    def reach(self, file: Path, step: int, seconds: float = PATIENCE) -> bool:
        """Wait until `file`, of the probe `inject_pace`, reports a finished step. Returns False if the run ends before."""
        until = time.monotonic() + seconds
        while self.running() and time.monotonic() < until:
            if file.is_file() and int(file.read_text() or 0) >= step:
                return True
            time.sleep(0.01)
        return False

    def wait(self, seconds: float) -> bool:
        """Whether all ranks ended within the time."""
        until = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def end(self, seconds: float = PATIENCE) -> Outcome:
        """Wait, then see what is left, and remove it."""
        self.wait(seconds)
        late = self.running()
        self.kill(late)
        self.wait(10)
        took, until = time.monotonic() - self.begun, time.monotonic() + LEAVING
        while (left := self._left()) and time.monotonic() < until:
            time.sleep(0.05)
        orphans = [f"{pid} {_name(pid)}" for pid in left]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        codes = [None if rank in late else self.codes.get(rank) for rank in range(len(self.pids))]
        logs = [path.read_text(errors="replace") for path in self.logs]
        return Outcome(codes, logs, took, orphans, sorted(unused(shared() - self.shm)))

    def _left(self) -> list[int]:
        return [pid for pid, session in sessions().items() if session in self.pids]


def start(main: Main, words: Sequence[str], *, ranks: int, folder: Path, environ: Mapping[str, str] | None = None) -> Job:
    """Start `ranks` processes as torchrun does, each calling `main(words)`; what they print goes to files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    job = Job([], [folder / f"rank-{rank}.log" for rank in range(ranks)], shared())
    several = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "fault_injection",
    }
    sys.stdout.flush()
    sys.stderr.flush()
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            own = {**several, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            _be_a_rank(main, words, job.logs[rank], folder, {**own, **(environ or {})})
        job.pids.append(pid)
    return job


def _be_a_rank(main: Main, words: Sequence[str], log: Path, folder: Path, environ: Mapping[str, str]) -> None:
    """Never returns."""
    code = 70
    try:
        os.setsid()
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(folder)
        os.environ.update(environ)
        code = main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def sessions() -> dict[int, int]:
    """Process id -> session id of every process that is no zombie."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue  # it ended meanwhile
            if state != "Z":
                found[int(entry.name)] = int(session)
    return found


def shared() -> set[str]:
    """Files of shared memory."""
    return {path.name for path in SHM.iterdir()} if SHM.is_dir() else set()


def unused(names: set[str]) -> set[str]:
    """Those that no process has open, so that files of other programs on this machine are left out."""
    held: set[str] = set()
    for entry in Path("/proc").iterdir() if names else ():
        if entry.name.isdigit():
            with suppress(OSError):
                maps = (entry / "maps").read_text()
                held |= {name for name in names if f"{SHM}/{name}" in maps}
    return {name for name in names - held if (SHM / name).exists()}


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
