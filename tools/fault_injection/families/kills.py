"""SIGKILLs at random times, of all ranks, one rank or a loader worker: what a run that is resumed after each has lost."""

import os
import signal
import time
from pathlib import Path
from random import Random

from fault_injection.ranks import PATIENCE, Job
from fault_injection.trial import Seen, trial
from fault_injection.world import World
from sunlab.data.ledger import NAME, audit, steps_of

STEPS = 12
PACE = {"name": "inject_pace", "seconds": 0.0}  # for the files that it writes
VICTIMS = ("all ranks", "rank 0", "rank 1", "a loader worker")


@trial("kills", "SIGKILL at random times", "0 samples lost or repeated, final weights byte-identical to the unbroken run")
def kills(world: World, seen: Seen) -> None:
    count = world.kills if world.kills is not None else world.choose(6, 30)
    unbroken, seconds = world.unbroken()
    random, runs = world.random("kills"), 0
    hits = dict.fromkeys(VICTIMS, 0)
    while sum(hits.values()) < count and runs < 3 * count + 3:
        config = world.config(f"killed-{runs}", world.clean(), **world.several, callbacks=[PACE])
        folder, runs, ends = world.run_folder(config), runs + 1, False
        while not ends:
            marks = [folder / f"step-{rank}" for rank in (0, 1)]
            for mark in marks:
                mark.unlink(missing_ok=True)
            job = world.start(config, *resume(folder), ranks=2)
            victim = _harm(job, random, seconds) if sum(hits.values()) < count else None
            if victim and not job.wait(3) and not all(mark.exists() for mark in marks):
                job.kill(job.running())  # the ranks had not met yet: it is their launcher that notices, and ends the others
            outcome = job.end(PATIENCE)
            if victim == "a loader worker" and outcome.codes == [0, 0]:
                victim = None  # it had delivered all that was needed
            seen.check(outcome.clean, f"run {runs} after {victim}: {outcome.codes}, {outcome.orphans}, {outcome.leaked}")
            if victim:
                hits[victim] += 1
            ends = set(outcome.codes) == {0}
            if not ends and victim is None:
                seen.check(False, f"run {runs} ended with {outcome.codes} unharmed: {outcome.log[-300:]}")
                break
        if ends:
            compare(seen, folder, unbroken, f"run {runs}")
    seen.check(sum(hits.values()) == count, f"{sum(hits.values())} of {count} kills hit a run that was going on")
    seen.count(kills=sum(hits.values()), runs=runs, **{name.replace(" ", "_"): number for name, number in hits.items()})


def resume(folder: Path) -> list[str]:
    """The words that go on with a run, where there is something to go on from."""
    return ["--resume", "last"] if list((folder / "checkpoints").glob("last*.ckpt")) else []


def compare(seen: Seen, folder: Path, unbroken: Path, name: str) -> None:
    """The ledger and the weights of a run against those of the unbroken one."""
    found = audit(folder / NAME)
    seen.check(found.exact and found.steps == STEPS, f"{name}: ledger: {found}")
    seen.check(steps_of(folder / NAME) == steps_of(unbroken / NAME), f"{name}: the steps have other samples")
    weights = [(run / "export" / "adapter.safetensors").read_bytes() for run in (folder, unbroken)]
    seen.check(weights[0] == weights[1], f"{name}: the weights differ from the unbroken run's")


def _harm(job: Job, random: Random, seconds: float) -> str | None:
    """Kill at a random time. Returns who was, None where the run was over before."""
    victim, moment = random.choice(VICTIMS), random.uniform(0.0, seconds)
    until = time.monotonic() + moment
    while time.monotonic() < until:
        if len(job.running()) < 2:
            return None
        time.sleep(0.002)
    if victim == "a loader worker":
        workers = [pid for rank in (0, 1) for pid in job.workers(rank)]
        if not workers:
            victim = "all ranks"  # it is too early for workers
        else:
            try:
                os.kill(random.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                return None
            return victim
    if not job.running():
        return None
    job.kill({"all ranks": [0, 1], "rank 0": [0], "rank 1": [1]}[victim])
    return victim
