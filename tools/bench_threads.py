"""How OpenMP's threads should wait: training steps a second on one thread and on two, alone and beside a busy process.

python tools/bench_threads.py                                        # quickstart's training in float32
python tools/bench_threads.py --spins 1000 10000 --threads 4 trainer.precision=auto

Each case is a process of its own, since OpenMP reads its settings when it is loaded; they take turns, in windows of seconds,
and are stopped between them. A window in which other work took a part of a core is left out. Needs Linux.

The waiting of threads is set for GNU's OpenMP (GOMP_SPINCOUNT), which torch's wheels for Linux bring, and for LLVM's and
Intel's (KMP_BLOCKTIME). The case `sunlab` is what sunlab sets by itself.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from sunlab.threads import waiting

ROOT = Path(__file__).parents[1]
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
WARMUP = 2  # steps before the first window
FOREIGN = 0.1  # share of a core that other work may take in a window
STAT = Path("/proc/stat")


def cases(threads: int, spins: list[int]) -> dict[str, dict[str, str]]:
    """Name -> environment variables."""
    many = {"OMP_NUM_THREADS": str(threads)}
    found = {
        "one": {"OMP_NUM_THREADS": "1"},
        f"{threads}, OpenMP's default": many,
        f"{threads}, spinning without end": {**many, "OMP_WAIT_POLICY": "ACTIVE"},
        f"{threads}, passive": {**many, "OMP_WAIT_POLICY": "PASSIVE"},
    }
    for spin in spins:
        found[f"{threads}, GOMP_SPINCOUNT={spin}"] = {**many, "GOMP_SPINCOUNT": str(spin)}
    found[f"{threads}, sunlab"] = {**many, **waiting({})}
    return found


def worker(overrides: list[str]) -> None:
    """Train in windows: a line of standard input gives the seconds of one, a line of JSON its rate and its CPU seconds."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback

    from sunlab.app.compose import build_base, build_data, build_module
    from sunlab.app.trainer import build_trainer
    from sunlab.callbacks.spending import Spending
    from sunlab.cli.quiet import quiet
    from sunlab.config.load import load_config
    from sunlab.memory import keep_freed_memory

    class Windows(Callback):
        steps, until, started, cpu = -WARMUP, 0.0, 0.0, 0.0

        def on_train_batch_end(
            self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
        ) -> None:
            self.steps += 1
            now = time.perf_counter()
            if self.steps < 0 or now < self.until:
                return
            found = {"rate": self.steps * len(batch) / (now - self.started), "cpu": time.process_time() - self.cpu}
            print(json.dumps(found), flush=True)  # the first one says that the warm-up is over
            line = sys.stdin.readline()
            trainer.should_stop = not line
            self.steps, self.started, self.cpu = 0, time.perf_counter(), time.process_time()
            self.until = self.started + float(line or 0)

    quiet()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        fixed = ["callbacks=[]", f"run.dir={folder}", "trainer.logger=false", "trainer.enable_progress_bar=false"]
        fixed += ["trainer.max_steps=1000000", "optimizer.schedule=constant", "run.checkpoint_every=1000000"]
        config = load_config(
            [ROOT / "configs" / "quickstart.yaml"], [*fixed, "trainer.precision=32-true", *overrides]
        ).config
        base = build_base(config)
        module = build_module(config, base)
        trainer = build_trainer(config, Path(folder), Spending(), [], [Windows()])
        trainer.fit(module, datamodule=build_data(config, base))


class Case:
    """A process that is stopped outside its own windows."""

    def __init__(self, environment: dict[str, str], overrides: list[str]):
        clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", *overrides],
            env=clean | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        """Wait for the end of the warm-up."""
        self.answer()
        self.process.send_signal(signal.SIGSTOP)

    def answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit("a worker ended early; see its error above")

    def window(self, seconds: float) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        found = self.answer()
        self.process.send_signal(signal.SIGSTOP)
        return found


def processors() -> tuple[float, float]:
    """CPU seconds that all processes of this machine have taken, and the time now."""
    words = STAT.read_text().split("\n", 1)[0].split()[1:]
    taken = sum(map(int, words[:8])) - int(words[3]) - int(words[4])  # without idle and iowait, with steal
    return taken / os.sysconf("SC_CLK_TCK"), time.perf_counter()


def taken_by(process: subprocess.Popen) -> float:
    words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def measure(case: Case, busy: subprocess.Popen | None, seconds: float) -> tuple[float, float]:
    """Samples a second of one window, and the share of a core that processes took that are not of the measurement."""
    if busy is not None:
        busy.send_signal(signal.SIGCONT)
    own = 0.0 if busy is None else taken_by(busy)
    before, start = processors()
    found = case.window(seconds)
    after, end = processors()
    own = found["cpu"] + (0.0 if busy is None else taken_by(busy) - own)
    if busy is not None:
        busy.send_signal(signal.SIGSTOP)
    return found["rate"], (after - before - own) / (end - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--spins", type=int, nargs="*", default=[1000, 10000, 100000], help="values of GOMP_SPINCOUNT")
    parser.add_argument("--cases", nargs="*", metavar="TEXT", help="only those with one of these in their names")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each window")
    parser.add_argument("--rounds", type=int, default=5, help="windows of each case, in turn")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of configs/quickstart.yaml")
    arguments = parser.parse_intermixed_args()
    if arguments.worker:
        return worker(arguments.overrides)
    made: list[subprocess.Popen] = []
    rates: dict[tuple[str, bool], list[float]] = defaultdict(list)
    left_out, running = 0, dict[str, Case]()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was measured until then is printed
    try:
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        other.send_signal(signal.SIGSTOP)
        made.append(other)
        for name, environment in cases(arguments.threads, arguments.spins).items():
            if arguments.cases and not any(word in name for word in arguments.cases):
                continue
            running[name] = Case(environment, arguments.overrides)
            made.append(running[name].process)
        for case in running.values():
            case.ready()
        for _ in range(arguments.rounds):
            for name, case in running.items():
                for busy in (False, True):
                    rate, foreign = measure(case, other if busy else None, arguments.seconds)
                    left_out += foreign > FOREIGN
                    if foreign <= FOREIGN:
                        rates[name, busy].append(rate)
    finally:
        for process in made:
            process.kill()
            process.wait()
        report(running, rates, left_out)
    return None


def report(names: Iterable[str], rates: Mapping[tuple[str, bool], list[float]], left_out: int) -> None:
    print("| samples / s, median (range, windows) | idle | beside a busy process |\n|---|---|---|")
    for name in names:
        print(f"| {name} | {shown(rates[name, False])} | {shown(rates[name, True])} |")
    print(f"\n{left_out} windows are left out, in which other work took more than {FOREIGN:.0%} of a core")


def shown(rates: list[float]) -> str:
    return f"{median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f}, {len(rates)})" if rates else "not measured"


if __name__ == "__main__":
    main()
