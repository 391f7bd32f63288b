"""Part `sampling`: passes, loops and whole pictures at Stable Diffusion 1.5's size, eager and compiled."""

import time
from collections.abc import Mapping, Sequence
from statistics import median

import torch

from bench.memory import peak_over
from bench.networks import compile_blocks
from bench.timing import Clock, Times, paired, ratios
from bench_sampling import GUIDED, PLAIN, RAW4, SUN4, UNFUSED, binds, loops, parts
from gpu.bases import random_base
from gpu.parts import Bench
from gpu.record import Goal
from sunlab.backbones.base import BaseModel
from sunlab.pipelines.draw import Bind


@torch.no_grad()
def measure(bench: Bench) -> None:
    options = {"name": "sd", "channels_last": True}
    base = random_base("sd15", bench.device, bench.dtype, tiny=bench.tiny, pixels=512, options=options, whole=True)
    clock, names = Clock(bench.device), (GUIDED, PLAIN, SUN4, RAW4, UNFUSED)
    eager = binds(base, names)
    small, middle, large = (1, 1, 1) if bench.tiny else (1, 4, 16)
    seconds = whole_loops(bench, base, eager, middle, clock, "eager", goal=True)
    passes(bench, base, eager, middle, clock, "eager", goal=True)
    compiled = binds(base, names, compile_network=None if bench.tiny else compile_blocks)
    for name in (PLAIN, SUN4):
        started = time.perf_counter()
        loops(base, {name: compiled[name]}, small, single=True)[name]()
        took = time.perf_counter() - started
        bench.figure(f"seconds to compile, {name}, batch {small}", took, "s", note="first pass, blocks compiled")
    whole_loops(bench, base, compiled, small, clock, "compiled", goal=True)
    passes(bench, base, compiled, small, clock, "compiled", goal=True)
    pictures(bench, base, seconds, middle, clock)
    if bench.tiny:
        return  # what follows is more of the same
    pictures(bench, base, whole_loops(bench, base, eager, small, clock, "eager"), small, clock)
    for batch in (small, large):
        passes(bench, base, eager, batch, clock, "eager")
    for batch in (middle, large):
        passes(bench, base, compiled, batch, clock, "compiled")


def passes(
    bench: Bench, base: BaseModel, bound: Mapping[str, Bind], batch: int, clock: Clock, how: str, *, goal: bool = False
) -> None:
    """One pass without an adapter, with SUN, also without attention normalisation, and with a LoRA: milliseconds, MiB and
    the ratios."""
    cases = {name: bound[name] for name in (PLAIN, SUN4, RAW4, UNFUSED)}
    run = loops(base, cases, batch, single=True)
    seconds = paired(run, bench.pick(21, 1), clock)
    at = f"batch {batch}, {how}"
    labels = {PLAIN: "plain pass", SUN4: "SUN pass", RAW4: "SUN, not normalised, pass", UNFUSED: "LoRA pass"}
    for name in (SUN4, RAW4):
        bench.figure(f"a {labels[name]} over a plain one, {at}", ratios(seconds[name], seconds[PLAIN]), "",
                     Goal(1.02, at_least=False) if goal else None)  # fmt: skip
    for name, label in labels.items():
        bench.figure(f"{label}, {at}", [1000 * s for s in seconds[name]], "ms")
        bench.figure(f"{label}, {at}: rise of memory", peak_over(run[name], bench.device) / 2**20, "MiB")


def whole_loops(
    bench: Bench, base: BaseModel, bound: Mapping[str, Bind], batch: int, clock: Clock, how: str, *, goal: bool = False
) -> Times:
    """25 guided steps against 4 with SUN, and the limit: 4 passes without an adapter."""
    seconds = paired(
        loops(base, {name: bound[name] for name in (GUIDED, PLAIN, SUN4)}, batch, single=False), bench.pick(5, 1), clock
    )
    at = f"batch {batch}, {how}"
    bench.figure(f"SUN's share of the U-Net loop's limit, {at}", ratios(seconds[PLAIN], seconds[SUN4]), "",
                 Goal(0.95) if goal else None)  # fmt: skip
    bench.figure(f"speed-up of the U-Net loop, {at}", ratios(seconds[GUIDED], seconds[SUN4]), "", note="25 x CFG / 4 x SUN")
    bench.figure(f"limit of it by time, {at}", ratios(seconds[GUIDED], seconds[PLAIN]), "", note="12.5 by count")
    for name in (GUIDED, SUN4):
        bench.figure(f"U-Net loop, {name}, {at}", [s / batch for s in seconds[name]], "s a picture")
    return seconds


def pictures(bench: Bench, base: BaseModel, loop: Times, batch: int, clock: Clock) -> None:
    """Text, loop and decoder together; `loop` as `whole_loops` measured it."""
    rest = {name: median(seconds) for name, seconds in paired(parts(base, batch), bench.pick(5, 1), clock).items()}
    for decoder in ("full decoder", "tiny decoder"):
        around = rest["text"] + rest[decoder]
        bench.figure(f"speed-up of a picture, {decoder}, batch {batch}", over(loop[GUIDED], loop[SUN4], around))
        bench.figure(f"{decoder}, batch {batch}", 1000 * rest[decoder], "ms")


def over(above: Sequence[float], below: Sequence[float], more: float) -> list[float]:
    """Ratios round by round, both longer by `more`."""
    return ratios([s + more for s in above], [s + more for s in below])
