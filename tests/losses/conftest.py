"""A world small enough to compute by hand: numpy's own schedule, solvers and denoiser.

Times are Stable Diffusion's steps here, 999 ... 0, and -1 the clean end: step i is t = (i + 1) / 1000.
"""

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sunlab.diffusion.path import DiscreteVP
from sunlab.diffusion.prediction import Prediction
from sunlab.draws import Draws
from sunlab.losses.base import BoundSampler
from sunlab.registries import registry_of
from sunlab.types import Batch, Conditioning, Trajectory

PATH = DiscreteVP.from_betas()
SHAPE = (2, 3, 3)
ROOTS = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000)
ABAR = np.cumprod(1 - ROOTS**2)


def alpha_sigma(t):
    """Of whole times, -1 the clean end."""
    abar = 1.0 if t < 0 else ABAR[t]
    return math.sqrt(abar), math.sqrt(1 - abar)


def ddim(epsilon, x, times):
    """arXiv 2010.02502, equation 12 with sigma = 0, over whole times."""
    for t, s in pairwise(times):
        (a, b), (c, d) = alpha_sigma(t), alpha_sigma(s)
        e = epsilon(x, t)
        x = c * (x - b * e) / a + d * e
    return x


def dpmpp_2m(epsilon, x, times):
    """arXiv 2211.01095, algorithm 2: D_i = (1 + 1 / 2r) x_0(i) - x_0(i - 1) / 2r, first order at both ends."""
    before = None
    for t, s in pairwise(times):
        (a, b), (c, d) = alpha_sigma(t), alpha_sigma(s)
        now = (x - b * epsilon(x, t)) / a
        if s < 0:
            x = now
            continue
        lam, lam_s = math.log(a / b), math.log(c / d)
        mixed = now
        if before is not None:
            r = (lam - before[1]) / (lam_s - lam)
            mixed = (1 + 1 / (2 * r)) * now - before[0] / (2 * r)
        x = d / b * x - c * math.expm1(lam - lam_s) * mixed
        before = (now, lam)
    return x


class Toy:
    """epsilon = tanh(a x + t / 1000 + c) of one sample, in numpy and for flows."""

    def __init__(self, a, c):
        self.a, self.c, self.asked = torch.tensor(a, dtype=torch.float64, requires_grad=True), c, []

    def numpy(self, row):
        return lambda x, t: np.tanh(float(self.a.detach()) * x + t / 1000 + self.c[row])

    def __call__(self, x, t):
        self.asked.append((x.detach().clone(), steps_of(t), torch.is_grad_enabled()))
        alpha, sigma = PATH.at(t, x)
        c = torch.tensor(self.c, dtype=x.dtype).reshape(-1, 1, 1, 1)
        value = torch.tanh(self.a * x + steps_of(t).to(x).reshape(-1, 1, 1, 1) / 1000 + c)
        return Prediction(value, "epsilon", x, alpha, sigma)


def flow(denoise, solver, times):
    return BoundSampler(denoise, registry_of("solvers").build(solver, PATH), times_of(times))


def batch(seeds, *, latents=True, trajectory=None):
    draws = Draws(list(seeds), dtype=torch.float64)
    tokens = Conditioning(torch.zeros(len(draws.seeds), 1, 1))
    x_0 = draws.normal("the test's x_0", SHAPE) if latents else None
    w = draws.uniform("the test's w", 2, 8)
    return Batch(tokens, tokens, w, draws, SHAPE, x_0, trajectory)


def trajectory(seeds, times):
    states = Draws(list(seeds), dtype=torch.float64).normal("the test's states", (len(times), *SHAPE))
    return Trajectory(states, times_of(times))


def times_of(steps):
    return (torch.tensor(steps, dtype=torch.float64) + 1) / 1000


def steps_of(t):
    whole = (1000 * t - 1).round()
    assert t.dtype == torch.float64 and torch.allclose(1000 * t - 1, whole, rtol=0, atol=1e-9)
    return whole.long()


def in_steps(output):
    return replace(output, t=steps_of(output.t), s=steps_of(output.s))


def squared(a, b):
    return (a - b).square().flatten(1).mean(1)


@pytest.fixture
def hand():
    """What is above, for tests."""
    return SimpleNamespace(
        PATH=PATH, SHAPE=SHAPE, Toy=Toy, alpha_sigma=alpha_sigma, batch=batch, ddim=ddim, dpmpp_2m=dpmpp_2m,
        flow=flow, in_steps=in_steps, squared=squared, steps_of=steps_of, times_of=times_of, trajectory=trajectory,
    )  # fmt: skip
