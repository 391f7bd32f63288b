"""Seconds and NFE a picture, of all methods in one go, and what the evaluations alone take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from sunlab.draws import starting_noise
from sunlab.evaluation.gallery import Gallery
from sunlab.evaluation.methods import Method
from sunlab.pipelines.draw import Request, draw
from sunlab.types import Conditioning

ALONE = 4  # bare network evaluations of each batch size in a round


@dataclass(frozen=True)
class Timed:
    """A picture of a method.

    Attributes:
        nfe: network evaluations.
        seconds: in all.
        bare: seconds of as many evaluations of the base's network alone: of batch 2 under guidance, else of batch 1.
    """

    nfe: float
    seconds: float
    bare: float


def times_of(gallery: Gallery, methods: Sequence[Method], request: Request) -> list[Timed]:
    """A picture of each method; the median over the request's pictures, one at a time.

    The methods and the bare evaluations take turns, so that a machine that slows down slows all of them. The decoder is
    timed, the text encoder is not. What was measured for the same methods before is returned, all or none.
    """
    methods_of = [method.identity(gallery.base_identity) for method in methods]
    facts = [methods_of, list(request.seeds), str(gallery.base.device), "bare"]
    found = gallery.remember("timing", facts, lambda: _measure(gallery, methods, request))
    one, two = found["bare"]
    return [
        Timed(nfe, seconds, nfe / 2 * two if method.guided else nfe * one)
        for method, (nfe, seconds) in zip(methods, found["methods"], strict=True)
    ]


def _measure(gallery: Gallery, methods: Sequence[Method], request: Request) -> dict[str, Any]:
    base = gallery.base
    base.encode(request.prompts)
    base.encode(request.negatives, negative=True)
    seconds: list[list[float]] = [[] for _ in methods]
    bare: list[list[float]] = [[], []]
    nfe = [0.0 for _ in methods]
    for i in range(-1, len(request)):  # the first round warms up
        one = request.part(max(i, 0), max(i, 0) + 1)
        for place, method in enumerate(methods):
            with method.bound(base) as bind:
                started = time.perf_counter()
                drawn = draw(base, method.sampling, bind, one, w=method.w)
                drawn.images.cpu()  # waits for the accelerator
                taken = time.perf_counter() - started
            gallery.nfe += drawn.nfe
            nfe[place] = drawn.nfe
            if i >= 0:
                seconds[place].append(taken)
        for size in (1, 2):
            taken = _bare(gallery, one, size)
            if i >= 0:
                bare[size - 1].append(taken)
    pairs = [[p, median(s)] for p, s in zip(nfe, seconds, strict=True)]
    return {"methods": pairs, "bare": [median(s) for s in bare]}


@torch.no_grad()
def _bare(gallery: Gallery, one: Request, size: int) -> float:
    """Seconds of one pass of the U-Net over `size` states."""
    base = gallery.base
    words = Conditioning.cat([base.encode(one.negatives, negative=True), base.encode(one.prompts)])[-size:]
    x = starting_noise(list(one.seeds) * size, base.backbone.sample_shape).to(base.device)
    t = torch.full((size,), 0.5, dtype=torch.float64, device=base.device)
    started = time.perf_counter()
    for _ in range(ALONE):
        value = base.backbone(x, t, words).value
    value.cpu()
    gallery.nfe += ALONE * size
    return (time.perf_counter() - started) / ALONE
