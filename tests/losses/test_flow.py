"""Every loss on rectified flow, alpha = 1 - t and sigma = t, against its formula in numpy. One Euler step of the flow is a
DDIM step there: x_s = x_t + (s - t) u, x_0 = x_t - t u. `dmd` on this path: test_dmd.py."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sunlab.diffusion.guidance import guided
from sunlab.diffusion.path import RectifiedFlow
from sunlab.diffusion.prediction import Prediction
from sunlab.losses.base import BoundSampler
from sunlab.losses.weighting import WEIGHTINGS
from sunlab.registries import registry_of
from sunlab.types import Conditioning, Trajectory

SEEDS = tuple(range(24))
OWN = np.linspace(-1, 1, len(SEEDS))
SHIFTS = [1.0, 3.0]


def shifted(t, shift):
    return shift * t / (1 + (shift - 1) * t)


class Toy:
    """u = tanh(a x + t + c) of each sample."""

    def __init__(self, a, c):
        self.a, self.c, self.states = torch.tensor(a, dtype=torch.float64, requires_grad=True), c, []

    def numpy(self, row):
        return lambda x, t: np.tanh(float(self.a.detach()) * x + t + self.c[row])

    def __call__(self, x, t):
        self.states.append(x.detach())
        columns = [torch.as_tensor(part).double().reshape(-1, 1, 1, 1) for part in (t, self.c)]
        value = torch.tanh(self.a * x + columns[0] + columns[1])
        return Prediction(value, "flow", x, 1 - columns[0], columns[0])


def euler(u, x, times):
    for t, s in pairwise(times):
        x = x + (s - t) * u(x, t)
    return x


class World:
    """Student and teacher on 4 steps, a batch, and what a sample's x_t is."""

    def __init__(self, hand, shift, stored=None):
        self.path = RectifiedFlow(shift=shift)
        self.grid = [shifted(t, shift) for t in (1.0, 0.75, 0.5, 0.25)] + [0.0]
        self.student, self.teacher = Toy(0.8, OWN), Toy(0.3, -OWN)
        self.batch = hand.batch(SEEDS, trajectory=stored)
        self.noise = self.batch.draws.normal("noise", hand.SHAPE).numpy()
        self.squared = hand.squared

    def samplers(self, teacher=None):
        solver, times = registry_of("solvers").build("ddim", self.path), torch.tensor(self.grid, dtype=torch.float64)
        return BoundSampler(self.student, solver, times), BoundSampler(teacher or self.teacher, solver, times)

    def compute(self, request, teacher=None):
        loss = registry_of("losses").build(request)
        return loss(self.batch, *self.samplers(teacher), self.squared)

    def rows(self, output):
        for row, (t, s) in enumerate(zip(output.t.tolist(), output.s.tolist(), strict=True)):
            x = (1 - t) * self.batch.latents[row].numpy() + t * self.noise[row]
            yield row, t, s, x, self.student.numpy(row), self.teacher.numpy(row)


def agrees(output, row, mine, target):
    assert float(output.values[row].detach()) == pytest.approx(((mine - target) ** 2).mean(), rel=1e-7, abs=1e-14)


def below(edges, t):
    return max(edge for edge in edges if edge < t - 1e-9)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("even", ["t", "lambda"])
def test_msc(hand, shift, even):
    world = World(hand, shift)
    output = world.compute({"name": "msc", "substeps": 5, "even": even})
    for row, t, s, x, student, teacher in world.rows(output):
        assert s == below(world.grid, t)
        times = np.linspace(t, s, 6)
        if even == "lambda":
            first, last = (math.log((1 - e) / e) for e in (min(t, 0.999), max(s, 0.001)))
            inner = [1 / (1 + math.exp(first + (last - first) * i / 5)) for i in range(1, 5)]
            times = [t, *inner, s]
        agrees(output, row, euler(student, x, [t, s]), euler(teacher, x, times))
    assert set(output.t.tolist()) == set(world.grid[:-1])


def trajectory_of(hand, grid):
    from sunlab.draws import Draws

    states = Draws(list(SEEDS), dtype=torch.float64).normal("the test's states", (len(grid), *hand.SHAPE))
    return Trajectory(states, torch.tensor(grid, dtype=torch.float64))


@pytest.mark.parametrize("shift", SHIFTS)
def test_msc_rollout_and_trajectory(hand, shift):
    grid = World(hand, shift).grid
    stored = trajectory_of(hand, grid)
    world = World(hand, shift, stored)
    output = world.compute({"name": "msc_rollout", "through": 1})
    for row, *_, student, _ in world.rows(output):
        x, values = stored.states[row, 0].numpy(), []
        for index, ends in enumerate(pairwise(grid)):
            x = euler(student, x, ends)
            values.append(((x - stored.states[row, index + 1].numpy()) ** 2).mean())
        assert float(output.values[row].detach()) == pytest.approx(np.mean(values), rel=1e-7)
    for target in ("segment", "end"):
        output = world.compute({"name": "trajectory", "target": target})
        for row, t, s, _, student, _ in world.rows(output):
            assert s == (below(grid, t) if target == "segment" else 0.0)
            x, later = (stored.states[row, grid.index(time)].numpy() for time in (t, s))
            agrees(output, row, euler(student, x, [t, s]), later)


@pytest.mark.parametrize("shift", SHIFTS)
def test_msc_segment(hand, shift):
    world = World(hand, shift)
    output = world.compute({"name": "msc_segment", "skip": 40})
    for row, t, s, x, student, teacher in world.rows(output):
        start = min(edge for edge in world.grid if edge > t - 1e-9)
        steps = (start - t) / 0.04
        assert s == below(world.grid, t) and abs(steps - round(steps)) < 1e-6
        u = max(t - 0.04, s)
        nearer = euler(teacher, x, [t, u])
        agrees(output, row, euler(student, x, [t, s]), nearer if u == s else euler(student, nearer, [u, s]))


@pytest.mark.parametrize("boundary", ["karras", "none"])
def test_lcm_is_scaled_by_alpha_and_sigma_alone(hand, boundary):
    """c_skip = d^2 / ((10 r)^2 + d^2), c_out = 10 r / sqrt((10 r)^2 + d^2) with r = 1000 sigma / alpha; x_0 at alpha = 0."""
    world = World(hand, 1.0)
    d, k = 0.5, 1e-3  # so small a factor that both scalings matter
    output = world.compute({"name": "lcm", "boundary": boundary, "timestep_scaling": k})

    def clean(u, x, t):
        x_0 = x - t * u(x, t)
        if boundary == "none" or t == 1:
            return x_0
        r = 1000 * t / (1 - t)
        return d**2 / ((k * r) ** 2 + d**2) * x + k * r / math.sqrt((k * r) ** 2 + d**2) * x_0

    for row, t, s, x, student, teacher in world.rows(output):
        assert s == 0 and abs(50 * t - round(50 * t)) < 1e-9
        u = max(t - 0.02, 0.0)
        nearer = euler(teacher, x, [t, u])
        target = nearer if u < 1e-9 else clean(student, nearer, u)
        agrees(output, row, clean(student, x, t), target)


def test_lcm_jumps_from_pure_noise(hand):
    """The scalings of the solver `lcm` are those of the loss, and finite at alpha = 0 and at t = 0."""
    world = World(hand, 1.0)
    solver = registry_of("solvers").build({"name": "lcm", "eta": 0.0, "timestep_scaling": 1e-3}, world.path)
    x = torch.as_tensor(world.noise)
    for t in (1.0, 0.3):
        times = torch.full((len(SEEDS),), t, dtype=torch.float64)
        arrived = solver.step(world.student, x, times, torch.zeros_like(times))[0].detach().numpy()
        for row in range(len(SEEDS)):
            x_0 = world.noise[row] - t * world.student.numpy(row)(world.noise[row], t)
            r = t / (1 - t) if t < 1 else math.inf
            wanted = x_0 if t == 1 else 0.25 / (r**2 + 0.25) * world.noise[row] + r / math.sqrt(r**2 + 0.25) * x_0
            np.testing.assert_allclose(arrived[row], wanted, rtol=1e-9)


def test_pcm(hand):
    world = World(hand, 1.0)
    output = world.compute("pcm")
    edges = [1.0, 0.74, 0.5, 0.24, 0.0]  # 50 steps of 20: phases of 13, 12, 13 and 12 of them
    for row, t, s, x, student, teacher in world.rows(output):
        assert s == pytest.approx(below(edges, t), abs=1e-9)
        u = max(t - 0.02, s)
        nearer = euler(teacher, x, [t, u])
        agrees(output, row, euler(student, x, [t, s]), nearer if u < s + 1e-9 else euler(student, nearer, [u, s]))


@pytest.mark.parametrize("shift", SHIFTS)
def test_progressive(hand, shift):
    world = World(hand, shift)
    output = world.compute("progressive")
    for row, t, s, x, student, teacher in world.rows(output):
        arrived = euler(teacher, x, [t, (t + s) / 2, s])
        target = (arrived - s / t * x) / ((1 - s) - s / t * (1 - t))
        agrees(output, row, x - t * student(x, t), target)


@pytest.mark.parametrize("space", ["x_0", "epsilon"])
def test_cfg(hand, space):
    world = World(hand, 3.0)
    negative, w = np.linspace(2, -2, len(SEEDS)), world.batch.guidance

    def forward(x, t, conditioning):
        return Toy(0.3, conditioning.tokens.flatten().tolist())(x, t)

    tokens = [Conditioning(torch.tensor(each).reshape(-1, 1, 1)) for each in (-OWN, negative)]
    output = world.compute({"name": "cfg", "space": space}, teacher=guided(forward, *tokens, w))
    assert torch.equal(output.t, world.path.training_time(world.batch.draws))
    for row, t, s, x, student, teacher in world.rows(output):
        assert s == t
        without = np.tanh(0.3 * x + t + negative[row])
        us = student(x, t), without + float(w[row]) * (teacher(x, t) - without)
        mine, wanted = (x - t * u if space == "x_0" else x + (1 - t) * u for u in us)
        assert float(output.values[row].detach()) == pytest.approx(((mine - wanted) ** 2).mean(), rel=1e-5)


def test_sum(hand):
    world = World(hand, 1.0)
    losses = [{"name": "msc", "substeps": 2}, "progressive"]
    whole = world.compute({"name": "sum", "losses": losses, "weights": [1.0, 0.25]})
    first, second = (world.compute(loss) for loss in losses)
    torch.testing.assert_close(whole.values, first.values + 0.25 * second.values)


@pytest.mark.parametrize("shift", SHIFTS)
def test_weightings_by_the_signal_to_noise_ratio(shift):
    """((1 - t) / t)^2, whatever the grid's shift; 0 at pure noise."""
    path = RectifiedFlow(shift=shift)
    t, s = [1.0, 0.75, 0.5, 0.02], [0.75, 0.5, 0.0, 0.01]
    times = [torch.tensor(each, dtype=torch.float64) for each in (t, s)]
    snr = [((1 - each) / each) ** 2 for each in t]
    weights = {name: WEIGHTINGS.build(name)(path, *times).tolist() for name in ("min_snr", "truncated_snr", "x_0")}
    assert weights["min_snr"] == pytest.approx([1.0, 1.0, 1.0, 5 / snr[3]])
    assert weights["truncated_snr"] == pytest.approx([1.0, 1.0, 1.0, snr[3]])
    assert weights["x_0"] == pytest.approx([1.0, 0.5625, 0.25, 0.1])
    moved = [b - (1 - b) * a / (1 - a) for a, b in zip(t[1:], s[1:], strict=True)]
    found = WEIGHTINGS.build("inverse_jump")(path, *times).tolist()
    assert found[1:] == pytest.approx([c**-2 for c in moved]) and math.isfinite(found[0])
