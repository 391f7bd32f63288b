"""Part `waits`: does a training step or a sampling step wait for the device?"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import torch

from bench_training import samples_of
from gpu.bases import random_base
from gpu.parts import Bench
from gpu.record import Goal
from sunlab.adapters.sun import SUN
from sunlab.backbones.base import BaseModel
from sunlab.callbacks.finite import not_finite, skip
from sunlab.diffusion.grid import grid
from sunlab.diffusion.guidance import NetworkEvaluations
from sunlab.losses import LOSSES
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.distillation import DistillationModule
from sunlab.pipelines.draw import with_adapter
from sunlab.solvers import SOLVERS
from sunlab.types import Samples

NEVER = Goal(0, at_least=False)
GIVEN: dict[str, Any] = {"sum": {"name": "sum", "losses": ["msc", "cfg"], "weights": [1.0, 0.5]}}
"""Losses that need more than their name."""


@contextmanager
def refusing_to_wait(device: str) -> Iterator[None]:
    """A wait of the host for the device raises `RuntimeError`. On a CPU nothing is checked: `sunlab.testing.device` does it
    there, without values."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def measure(bench: Bench) -> None:
    short = slice(2 if bench.tiny else None)
    for name in LOSSES.names()[short]:
        attempt(bench, f"a training step with the loss {name}", training_step(bench, name))
    base = random_base("sd15", bench.device, torch.float32, tiny=True, whole=True)
    sun = SUN()
    sun.attach(base.backbone)
    base.to(bench.device)
    for name in SOLVERS.names()[short]:
        attempt(bench, f"four sampling steps of {name}", sampling(bench, base, sun, name))


def attempt(bench: Bench, what: str, step: Callable[[], object]) -> None:
    """Run what must not wait; it ran before. On a CPU there is no figure, for nothing was checked."""
    try:
        with refusing_to_wait(bench.device):
            step()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        bench.figure(f"waits in {what}", 1, "", NEVER, note=place_of(error))
    else:
        if bench.device == "cuda":
            bench.figure(f"waits in {what}", 0, "", NEVER)


def place_of(error: BaseException) -> str:
    """The line of sunlab's that waited."""
    found, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "sunlab/" in file.replace("\\", "/"):
            found = f"{file.replace(chr(92), '/').rpartition('sunlab/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"the first in sunlab/{found}" if found else str(error).splitlines()[0]


def training_step(bench: Bench, name: str) -> Callable[[], object]:
    """Forward, backward and optimizer step of an adapter, as `sunlab fit` trains it; samples are on the device already."""
    base = random_base("sd15", bench.device, torch.float32, tiny=True, whole=True)
    module = AdapterModule(base, SUN(), LOSSES.build(GIVEN.get(name, name)))
    module.to(bench.device).train()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    parameters = [*module.trainable().values(), *module.turns.parameters()] if module.alternates else None
    optimizer = torch.optim.AdamW(parameters or module.trainable().values(), lr=1e-4, fused=True)
    stored, latents = (samples_of(base, 2, 64, form=form) for form in ("trajectory", "latents"))
    turns = count()

    def made() -> Samples:
        """With all that a loss may want."""
        return replace(stored(), latents=latents().latents)

    def step(samples: Samples) -> None:
        number = next(turns)
        loss = one_step(module, samples, number)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in module.parameters() if p.grad is not None], 1.0)
        skip(optimizer, not_finite([loss.detach()], [p.grad for p in module.parameters() if p.grad is not None]))
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2 if module.alternates or not bench.tiny else 1):
        step(made())
    samples = made()
    return lambda: step(samples)


def one_step(module: DistillationModule, samples: Samples, number: int) -> torch.Tensor:
    """The loss of `training_step`, both of a loss's networks and of the student in turn where it has any."""
    batch = module.encode(samples)
    if not module.alternates:
        return module.student_step(samples, batch)["loss"]
    critic = module.turns.take(number) == "critic"
    return (module.critic_step if critic else module.student_step)(samples, batch)["loss"]


def sampling(bench: Bench, base: BaseModel, sun: SUN, name: str) -> Callable[[], object]:
    """A whole loop of four steps with SUN."""
    path = base.backbone.path
    positive, negative = base.encode(["a pizza"] * 2), base.encode(["blue"] * 2)
    w = torch.full((2,), 3.0, device=bench.device)
    x = torch.randn(2, *base.backbone.sample_shape, device=bench.device)
    denoise = with_adapter(base, sun)(positive, negative, w, NetworkEvaluations())
    solver, times = SOLVERS.build(name, path), grid(4, path=path)

    @torch.no_grad()
    def run() -> object:
        return solver.solve(denoise, x, times)

    run()
    return run
