"""Seconds and U-Net passes a picture, of all methods in one go."""

import time
from collections.abc import Sequence
from statistics import median

from sunlab.evaluation.gallery import Gallery
from sunlab.evaluation.methods import Method
from sunlab.pipelines.draw import Request, draw


def times_of(gallery: Gallery, methods: Sequence[Method], request: Request) -> list[tuple[float, float]]:
    """(passes, seconds) a picture of each method; the median over the request's pictures, one at a time.

    The methods take turns, so that a machine that slows down slows all of them. The text encoder is left out, the decoder
    is not. What was measured for the same methods before is handed back, all or none.
    """
    methods_of = [method.identity(gallery.base_identity) for method in methods]
    facts = [methods_of, list(request.seeds), str(gallery.base.device)]
    found = gallery.remember("timing", facts, lambda: _measure(gallery, methods, request))
    return [(passes, seconds) for passes, seconds in found]


def _measure(gallery: Gallery, methods: Sequence[Method], request: Request) -> list[list[float]]:
    base = gallery.base
    base.encode([*request.prompts, *request.negatives])
    seconds: list[list[float]] = [[] for _ in methods]
    passes = [0.0 for _ in methods]
    for i in range(-1, len(request)):  # the first round warms up
        one = request.part(max(i, 0), max(i, 0) + 1)
        for place, method in enumerate(methods):
            with method.bound(base) as bind:
                started = time.perf_counter()
                drawn = draw(base, method.sampling, bind, one, w=method.w)
                drawn.images.cpu()  # waits for the accelerator
                taken = time.perf_counter() - started
            gallery.passes += drawn.passes
            passes[place] = drawn.passes
            if i >= 0:
                seconds[place].append(taken)
    return [[p, median(s)] for p, s in zip(passes, seconds, strict=True)]
