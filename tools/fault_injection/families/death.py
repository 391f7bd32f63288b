"""Processes that die, hang or receive a signal, and losses that are not finite."""

import json
import os
import signal
import time
from pathlib import Path

from fault_injection.families.kills import compare
from fault_injection.ranks import PATIENCE, Job
from fault_injection.trial import Seen, trial
from fault_injection.world import World
from sunlab.data.ledger import NAME, audit

LONG = 100_000  # steps that no trial waits for


def _going(world: World, name: str, *, ranks: int = 2, **more: object) -> tuple[Job, Path]:
    """A run in its third step."""
    values = {**world.several, "callbacks": [{"name": "inject_pace", "seconds": 0.05}], "trainer__max_steps": LONG, **more}
    config = world.config(name, world.clean(), **values)
    folder = world.run_folder(config)
    job = world.start(config, ranks=ranks)
    if not job.reach(folder / "step-0", 3):
        raise RuntimeError(f"the run did not get to its third step: {job.end(0.1).log[-500:]}")
    return job, folder


def _ends(seen: Seen, job: Job, since: float, code: int, others: list[int], what: str) -> None:
    """Whether all but the victims end in time, with `code`, and nothing is left."""
    while any(rank in job.running() for rank in others) and time.monotonic() - since < PATIENCE:
        time.sleep(0.01)
    noticed = max(job.ended.get(rank, float("inf")) for rank in others) - since
    job.kill(job.running())  # a stopped rank, which its launcher would kill now
    outcome = job.end(5)
    seen.check(noticed <= PATIENCE, f"{what}: the others ran on for {noticed:.1f} s")
    seen.check(all(outcome.codes[rank] == code for rank in others), f"{what}: codes {outcome.codes}: {outcome.log[-400:]}")
    seen.check(not outcome.orphans and not outcome.leaked, f"{what}: left {outcome.orphans}, {outcome.leaked}")
    seen.count(**{f"noticed_{what.replace(' ', '_')}_s": round(noticed, 2)})


@trial("faults", "12 SIGKILL of one rank", "the other ends within 60 s with 71; no orphans, no shared memory left")
def one_rank(world: World, seen: Seen) -> None:
    for rank in (0, 1):
        job, _ = _going(world, f"kill-rank-{rank}")
        since = time.monotonic()
        job.kill([rank])
        _ends(seen, job, since, 71, [1 - rank], f"rank {rank}")


@trial(
    "faults", "16 loader worker killed or stopped, rank stopped", "all end within 60 s with 71; no orphans, no shared memory"
)
def worker_and_stop(world: World, seen: Seen) -> None:
    job, _ = _going(world, "kill-worker")
    since = time.monotonic()
    os.kill(job.workers(1)[0], signal.SIGKILL)
    _ends(seen, job, since, 71, [0, 1], "worker")
    soon = {"run__dead_after": world.choose(6, 10)}
    job, _ = _going(world, "stop-worker", **soon)
    since = time.monotonic()
    os.kill(job.workers(1)[0], signal.SIGSTOP)
    _ends(seen, job, since, 71, [0, 1], "stopped worker")
    for rank in (0, 1):
        job, _ = _going(world, f"stop-rank-{rank}", **soon)
        since = time.monotonic()
        job.kill([rank], signal.SIGSTOP)
        _ends(seen, job, since, 71, [1 - rank], f"stopped rank {rank}")


@trial(
    "faults",
    "15 SIGTERM or SIGUSR1 to one rank in mid-step",
    "all ranks save after the same step, 75; resumed to the same bytes",
)
def told_to_stop(world: World, seen: Seen) -> None:
    unbroken, _ = world.unbroken()
    for what in ("term", "usr1"):
        harm = {"name": "inject_harm", "what": what, "rank": 1, "step": 5}
        name = f"told-{what}"
        first = world.fit(world.config(name, world.clean(), **{**world.several, "callbacks": [harm]}), ranks=2)
        seen.check(first.codes[0] == 75 and first.codes[1] in (0, 75), f"{what}: {first.codes}: {first.log[-400:]}")
        seen.check("step 6" in first.log, f"{what}: stopped elsewhere: {first.log[-200:]}")
        seen.check(first.clean, f"{what}: {first.orphans}, {first.leaked}")
        config = world.config(name, world.clean(), **world.several)
        second = world.fit(config, "--resume", "last", ranks=2)
        if seen.check(second.codes == [0, 0], f"{what}, resumed: {second.codes}: {second.log[-400:]}"):
            compare(seen, world.run_folder(config), unbroken, what)


@trial("faults", "19 NaN on one rank, NaN loss N times", "all ranks skip the same step; at N in a row 65, the batches saved")
def not_finite(world: World, seen: Seen) -> None:
    harm = {"name": "inject_harm", "what": "nan", "rank": 1, "step": 4}
    config = world.config("nan-once", world.clean(), **{**world.several, "callbacks": [harm]})
    once, folder = world.fit(config, ranks=2), world.run_folder(config)
    if seen.check(once.codes == [0, 0], f"once: {once.codes}: {once.log[-400:]}"):
        notes = [json.loads((folder / "skipped" / f"rank-{rank}.jsonl").read_text()) for rank in (0, 1)]
        seen.check([note["step"] for note in notes] == [4, 4], f"once: the ranks skipped {notes}")
        seen.check([note["finite"] for note in notes] == [True, False], "once: the wrong rank is blamed")
        seen.check(audit(folder / NAME).exact, "once: the ledger is not exact")
    harm |= {"steps": 99}
    config = world.config("nan-ever", world.clean(), **{**world.several, "callbacks": [harm], "run__skip_limit": 3})
    ever, folder = world.fit(config, ranks=2), world.run_folder(config)
    seen.check(ever.codes == [65, 65] and ever.clean, f"for ever: {ever.codes}: {ever.log[-400:]}")
    for rank in (0, 1):
        lines = (folder / "skipped" / f"rank-{rank}.jsonl").read_text().splitlines()
        seen.check(len(lines) == 3 and all(json.loads(line)["keys"] for line in lines), f"for ever: rank {rank}: {lines}")
