"""What a sample of training costs: SUN from stored trajectories, SUN with a live teacher, LCM-LoRA as configured here, and
LCM-LoRA as it is usually trained; same base, batch and machine, in turn.

    python tools/bench_training.py                                                     # emoji-sd
    python tools/bench_training.py --base random-sd15 --dtype bfloat16 --channels-last --batch 1 --pixels 256 --rounds 3

`random-sd15` is a folder of tools/make_random_base.py: time and memory depend on the shapes, not on the weights' values.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from bench.memory import bytes_of, peak_over
from bench.networks import twin
from bench.timing import Clock, goal, machine, paired, ratios, summary
from bench.usual import RECIPE, UsualLCMLoRA
from sunlab.adapters.lora import LoRA
from sunlab.adapters.sun import SUN
from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.diffusion.grid import grid
from sunlab.losses.distances import PseudoHuber
from sunlab.losses.msc import MSC
from sunlab.memory import keep_freed_memory
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.student import StudentModule
from sunlab.solvers import Sampler
from sunlab.solvers.ddim import DDIM
from sunlab.types import Samples, Trajectory

STORED, LIVE = "SUN, stored trajectories", "SUN, live teacher"
OURS, USUAL = "LoRA + lcm, as configured here", "LoRA + lcm, the usual script"


@dataclass(frozen=True)
class Case:
    """A way to train.

    Attributes:
        loss: of one batch, with gradient.
        weights: the networks that a step uses.
    """

    loss: Callable[[Samples], torch.Tensor]
    trainable: list[nn.Parameter]
    weights: list[nn.Module]


def samples_of(base: BaseModel, batch: int, pixels: int, *, form: str) -> Callable[[], Samples]:
    """New samples each time: new captions, so that none is remembered; `form`: images, latents or trajectory."""
    numbers = count()
    shape, device = base.backbone.sample_shape, base.device

    def make() -> Samples:
        first = next(numbers) * batch
        names = [str(first + i) for i in range(batch)]
        blank = Samples(tuple(names), tuple(f"a pizza {n}" for n in names), ("",) * batch, tuple(map(int, names)))
        if form == "images":
            return replace(blank, images=torch.randint(256, (batch, 3, pixels, pixels), dtype=torch.uint8, device=device))
        if form == "latents":
            return replace(blank, latents=torch.randn(batch, *shape, device=device))
        states = Trajectory(torch.randn(batch, 5, *shape, device=device), grid(4).to(device))
        return replace(blank, trajectory=states, guidance=torch.full((batch,), 3.0, device=device))

    return make


def ours(base: BaseModel, kind: str) -> Case:
    """The module that `sunlab fit` trains."""
    own, module = twin(base), None
    if kind == OURS:
        path = own.backbone.path
        solver = Sampler(DDIM(path), grid(50, path=path))
        module = StudentModule(own, RECIPE, lora=LoRA(), distance=PseudoHuber(c=1e-3), teacher=solver, guidance=(6.0, 16.0))
    else:
        module = AdapterModule(own, SUN(), MSC(states="teacher" if kind == STORED else "data"))
    module.to(base.device).train()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    held: list[nn.Module] = [module]
    return Case(lambda samples: module.training_step(samples, 0)["loss"], list(module.trainable().values()), held)


def usual(base: BaseModel) -> Case:
    script = UsualLCMLoRA(base)
    held: list[nn.Module] = [script.teacher, script.student, base.text, base.autoencoder]
    return Case(script.loss, script.trainable(), held)


def step_of(case: Case, samples: Callable[[], Samples], device: str, dtype: torch.dtype) -> Callable[[], object]:
    """Frozen weights in `dtype`, trained ones in float32, half precision under autocast, as `bf16-mixed` has it."""
    optimizer = torch.optim.AdamW(case.trainable, lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = case.loss(samples())
        loss.backward()
        nn.utils.clip_grad_norm_(case.trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def where_time_goes(step: Callable[[], object], clock: Clock, rows: int = 8) -> str:
    """The operations that take most of one step."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if clock.device == "cuda" else [])
    with profile(activities=activities) as profiled:
        step()
    key = "self_device_time_total" if clock.device == "cuda" else "self_cpu_time_total"
    events: Any = sorted(profiled.key_averages(), key=lambda e: -getattr(e, key))
    total = sum(getattr(e, key) for e in events)
    return ", ".join(f"{e.key.removeprefix('aten::')} {getattr(e, key) / total:.0%}" for e in events[:rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="emoji-sd", help="a folder, or the name of a model inside the package")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pixels", type=int, help="of the pictures; the base's own size by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--channels-last", action="store_true", help="our cases as configs/sd15 and configs/sdxl have them")
    parser.add_argument("--cases", nargs="+", default=[STORED, LIVE, OURS, USUAL], choices=[STORED, LIVE, OURS, USUAL])
    told = parser.parse_args()
    quiet()
    keep_freed_memory()  # as sunlab's commands do
    torch.manual_seed(0)
    if told.device == "cpu":
        torch.set_num_threads(1)
    dtype = getattr(torch, told.dtype)
    base = configured = load_base(told.base, dtype=dtype).freeze().to(told.device)
    if told.channels_last:
        options = {"name": "sd", "channels_last": True}
        configured = load_base(told.base, dtype=dtype, backbone=options).freeze().to(told.device)
    factor, (channels, *_) = base.autoencoder.factor, base.backbone.sample_shape
    pixels = told.pixels or base.backbone.sample_shape[1] * factor
    for model in (base, configured):
        model.backbone.sample_shape = (channels, pixels // factor, pixels // factor)
    clock, forms = Clock(told.device), {STORED: "trajectory", LIVE: "latents", OURS: "latents", USUAL: "images"}
    cases = {name: usual(base) if name == USUAL else ours(configured, name) for name in told.cases}
    made = {name: samples_of(base, told.batch, pixels, form=forms[name]) for name in cases}
    steps = {name: step_of(case, made[name], told.device, dtype) for name, case in cases.items()}
    seconds = paired(steps, told.rounds, clock)
    how = told.dtype + (", our cases in channels_last" if told.channels_last else "")
    size = f"batch {told.batch}, {pixels} pixels, N = {told.rounds}"
    print(f"## {told.base}, {how}, {size}: {machine(told.device)}\n")
    print("| | samples / s | over the usual script | weights, MiB | rise in a step, MiB |\n|---|---|---|---|---|")
    held = {name: bytes_of(case.weights) for name, case in cases.items()}
    for name, step in steps.items():
        speed = [told.batch / s for s in seconds[name]]
        over = summary(ratios(seconds[USUAL], seconds[name]), 2) if USUAL in seconds else "-"
        print(f"| {name} | {summary(speed)} | {over} | {held[name] / 2**20:.0f} | "
              f"{peak_over(step, told.device) / 2**20:.0f} |", flush=True)  # fmt: skip
    print()
    for name, wanted in ((STORED, 2.5), (OURS, 1.15)):
        if name in seconds and USUAL in seconds:
            print(goal(f"{name}, over the usual script", median(ratios(seconds[USUAL], seconds[name])), wanted))
    if OURS in held and USUAL in held:
        print(goal("weights in memory, ours over the usual script's", held[OURS] / held[USUAL], 0.55, at_least=False))
    for name, step in steps.items():
        print(f"- time in {name}: {where_time_goes(step, clock)}", flush=True)


if __name__ == "__main__":
    main()
