"""Part `families`: a pass without an adapter and one with SUN on the larger families, and SDXL's loop at 1024 pixels."""

import gc
from dataclasses import replace

import torch

from bench.memory import peak_over
from bench.networks import twin
from bench.timing import Clock, paired, ratios
from gpu.bases import random_base
from gpu.parts import Bench
from gpu.record import Goal
from sunlab.adapters.sun import SUN
from sunlab.backbones.base import BaseModel
from sunlab.diffusion.grid import grid
from sunlab.diffusion.guidance import NetworkEvaluations
from sunlab.pipelines.draw import Bind, with_adapter, with_backbone, with_guidance
from sunlab.solvers.ddim import DDIM
from sunlab.solvers.dpmpp_2m import DPMpp2M
from sunlab.types import Conditioning

FAMILIES = {"sdxl": 1.02, "pixart_sigma": 1.02, "sana_1600m": 1.02, "sd35_medium": 1.03}
"""Family -> the most that a SUN pass may take of a pass without an adapter."""


@torch.no_grad()
def measure(bench: Bench) -> None:
    for family, most in FAMILIES.items():
        base = random_base(family, bench.device, bench.dtype, tiny=bench.tiny)
        passes(bench, base, family, most)
        if family == "sdxl":
            loop(bench, base)
        del base
        gc.collect()
        if bench.device == "cuda":
            torch.cuda.empty_cache()


def prompts(base: BaseModel, batch: int) -> Conditioning:
    """Random embeddings of prompts."""
    with torch.device(base.device):
        given = base.backbone.blank(batch)
    return replace(given, tokens=torch.randn_like(given.tokens))


def passes(bench: Bench, base: BaseModel, family: str, most: float) -> None:
    """Milliseconds of all in turn, at batch 1."""
    suns = {"SUN": SUN(), "SUN, not normalised": SUN(normalise=False)}
    binds: dict[str, Bind] = {"plain": with_backbone(base.backbone)}
    binds |= {name: with_adapter(twin(base, sun), sun) for name, sun in suns.items()}
    positive, negative, w = prompts(base, 1), prompts(base, 1), torch.full((1,), 4.0, device=base.device)
    x = torch.randn(1, *base.backbone.sample_shape, device=base.device)
    t = torch.full((1,), 0.5, dtype=torch.float64, device=base.device)
    bound = {name: bind(positive, negative, w, NetworkEvaluations()) for name, bind in binds.items()}
    cases = {name: lambda denoise=denoise: denoise(x, t) for name, denoise in bound.items()}
    seconds = paired(cases, bench.pick(11, 1), Clock(bench.device))
    for name in suns:
        bench.figure(f"a {name} pass over a plain one, {family}", ratios(seconds[name], seconds["plain"]), "",
                     Goal(most, at_least=False))  # fmt: skip
    for name, each in seconds.items():
        bench.figure(f"{name} pass, {family}, batch 1", [1000 * s for s in each], "ms")
    own = sum(p.numel() for p in suns["SUN"].tensors().values())
    bench.figure(f"SUN's parameters, {family}", own / 1e6, "million", note=f"{2 * own / 1e6:.0f} MB in float16")
    bench.figure(f"SUN pass, {family}: rise of memory", peak_over(cases["SUN"], bench.device) / 2**20, "MiB")


def loop(bench: Bench, base: BaseModel) -> None:
    """SDXL: 25 guided steps against 4 with SUN and 4 without an adapter."""
    sun, path = SUN(), base.backbone.path
    positive, negative, w = prompts(base, 1), prompts(base, 1), torch.full((1,), 4.0, device=base.device)
    x = torch.randn(1, *base.backbone.sample_shape, device=base.device)
    four, many = grid(4, path=path), grid(25, path=path)

    def run(bind: Bind, steps: torch.Tensor) -> object:
        solver = DDIM(path) if steps is four else DPMpp2M(path)
        return solver.solve(bind(positive, negative, w, NetworkEvaluations()), x, steps)

    adapted = with_adapter(twin(base, sun), sun)
    cases = {
        "guided": lambda: run(with_guidance(base), many),
        "plain": lambda: run(with_backbone(base.backbone), four),
        "SUN": lambda: run(adapted, four),
    }
    seconds = paired(cases, bench.pick(3, 1), Clock(bench.device))
    bench.figure("SUN's share of the loop's limit, sdxl", ratios(seconds["plain"], seconds["SUN"]), "", Goal(0.95))
    bench.figure("speed-up of the loop, sdxl", ratios(seconds["guided"], seconds["SUN"]), note="25 x CFG / 4 x SUN")
