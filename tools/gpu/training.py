"""Part `training`: samples a second and memory of training at 512 pixels, beside what `--dry-run` estimates."""

from statistics import median

import torch

from bench.memory import bytes_of, peak_over
from bench.timing import Clock, paired, ratios
from bench_training import LIVE, OURS, STORED, USUAL, Case, ours, samples_of, step_of, usual
from gpu.bases import random_base
from gpu.parts import Bench
from gpu.record import Goal
from sunlab.app.dry_run import blank_batch
from sunlab.modules.allocated import peak_of_step, recompute_alike
from sunlab.modules.distillation import DistillationModule
from sunlab.types import Samples

FORMS = {STORED: "trajectory", OURS: "latents", USUAL: "images", LIVE: "latents"}


def measure(bench: Bench) -> None:
    """The cases in turn, then stored trajectories with gradient checkpointing."""
    options = {"name": "sd", "channels_last": True}
    base = random_base("sd15", bench.device, bench.dtype, tiny=bench.tiny, pixels=512, options=options, whole=True)
    batch, clock = bench.pick(8, 1), Clock(bench.device)
    pixels = base.backbone.sample_shape[1] * base.autoencoder.factor
    names = (STORED, USUAL) if bench.tiny else tuple(FORMS)
    cases = {name: usual(base) if name == USUAL else ours(base, name) for name in names}
    made = {name: samples_of(base, batch, pixels, form=FORMS[name]) for name in names}
    steps = {name: step_of(case, made[name], bench.device, bench.dtype) for name, case in cases.items()}
    seconds, at = paired(steps, bench.pick(7, 1), clock), f"{pixels} pixels, batch {batch}"
    for name, wanted in ((STORED, 2.5), (OURS, 1.15)):
        if name in seconds:
            bench.figure(f"{name}, over the usual script, {at}", ratios(seconds[USUAL], seconds[name]), "", Goal(wanted))
    peaks = {}
    for name, case in cases.items():
        bench.figure(f"samples a second, {name}, {at}", [batch / s for s in seconds[name]])
        held = bytes_of(case.weights) + 8 * sum(p.numel() for p in case.trainable)
        peaks[name] = held + peak_over(steps[name], bench.device)
        bench.figure(f"peak memory, {name}, {at}", peaks[name] / 2**20, "MiB", note="weights, moments and a step")
    for name in (STORED, OURS):
        if name in peaks:
            bench.figure(f"peak memory of {name} over the usual script's", peaks[name] / peaks[USUAL], "",
                         Goal(0.6, at_least=False) if name == OURS else None)  # fmt: skip
    base.backbone.enable_checkpointing()
    case = ours(base, STORED)
    step = step_of(case, made[STORED], bench.device, bench.dtype)
    again = paired({STORED: step}, bench.pick(5, 1), clock)[STORED]
    bench.figure(f"samples a second, {STORED}, gradient checkpointing, {at}", [batch / s for s in again])
    bench.figure("time of a step with gradient checkpointing over one without", median(again) / median(seconds[STORED]))
    bench.figure(f"rise of memory, {STORED}, gradient checkpointing, {at}", peak_over(step, bench.device) / 2**20, "MiB")
    estimated(bench, cases[STORED], batch, peaks[STORED], at)


def estimated(bench: Bench, case: Case, batch: int, measured: int, at: str) -> None:
    """The estimate of `--dry-run` for the same module: weights and moments as measured, the step from shapes. Moves the
    module to the meta device: it is the last use of the case."""
    (module,) = case.weights
    assert isinstance(module, DistillationModule)
    half = None if bench.dtype == torch.float32 else bench.dtype
    held = bytes_of(case.weights) + 8 * sum(p.numel() for p in case.trainable)
    module.to("meta")
    recompute_alike(module.base.backbone, half)
    given = blank_batch(module, module.base.backbone, batch)
    samples = Samples(*[("",) * batch] * 3, (0,) * batch)
    known = [*module.parameters(), *module.buffers()]
    step = peak_of_step(lambda: module.student_step(samples, given)["loss"], known, half)
    bench.figure(f"memory estimated by --dry-run, {STORED}, {at}", (held + step) / 2**20, "MiB")
    off = abs((held + step) / measured - 1)
    goal = None if bench.device == "cpu" else Goal(0.15, at_least=False)  # resident memory is another measure
    bench.figure(f"error of the estimated memory, {STORED}, {at}", off, "", goal)
