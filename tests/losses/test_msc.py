"""`msc` against the formula, computed again in numpy; and against a problem with a known flow map."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sunlab.diffusion.prediction import Prediction
from sunlab.errors import ConfigError
from sunlab.losses.base import BoundSampler
from sunlab.losses.msc import MSC
from sunlab.registries import registry_of

SEEDS = tuple(range(12))
SEGMENTS = {2: [999, 499, -1], 4: [999, 749, 499, 249, -1]}
FINE = [1000 - math.ceil(1000 * i / 24 - 0.5) - 1 for i in range(24)]


def compute(hand, loss, *, teacher_solver="ddim", trajectory=None, latents=True, teacher=None):
    c = np.linspace(-1, 1, len(SEEDS))
    student, teacher = hand.Toy(0.8, c), teacher or hand.Toy(0.3, -c)
    batch = hand.batch(SEEDS, trajectory=trajectory, latents=latents)
    flows = hand.flow(student, "ddim", SEGMENTS[4]), hand.flow(teacher, teacher_solver, SEGMENTS[4])
    return hand.in_steps(loss(batch, *flows, hand.squared)), batch, student, teacher


def golden(hand, terms, student, teacher, *, substeps, solver="ddim"):
    """|jump of the student - m substeps of the teacher|^2, from the states that the student was asked at."""
    x, t, _ = student.asked[-1]
    values = []
    for row in range(len(x)):
        start, end = int(terms.t[row]), int(terms.s[row])
        assert start == int(t[row])
        here = x[row].numpy()
        times = [round(float(v)) for v in np.linspace(start, end, substeps + 1)]
        jump = hand.ddim(student.numpy(row), here, [start, end])
        target = getattr(hand, solver)(teacher.numpy(row), here, times)
        values.append(((jump - target) ** 2).mean())
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("segments", [None, 2])
@pytest.mark.parametrize("start", ["grid", "uniform"])
@pytest.mark.parametrize("substeps", [1, 5])
def test_the_formula(hand, solver, segments, start, substeps):
    loss = MSC(states="data", segments=segments, start=start, substeps=substeps)
    terms, batch, student, teacher = compute(hand, loss, teacher_solver=solver)
    expected = golden(hand, terms, student, teacher, substeps=substeps, solver=solver)
    torch.testing.assert_close(terms.values.detach(), expected, atol=1e-9, rtol=1e-6)
    grid = SEGMENTS[segments or 4]
    for t, s in zip(terms.t.tolist(), terms.s.tolist(), strict=True):
        begin = grid[grid.index(s) - 1]
        assert t == begin if start == "grid" else s < t <= begin
    assert len(set(terms.s.tolist())) == len(grid) - 1
    assert len(teacher.asked) == substeps and not any(grad for *_, grad in teacher.asked)
    assert len(student.asked) == 1 and student.asked[0][2]
    x, t, _ = student.asked[0]
    noise = batch.draws.normal("noise", hand.SHAPE)
    for row, time in enumerate(t.tolist()):
        a, b = hand.alpha_sigma(time)
        expected_state = noise[row] if time == 999 else a * batch.latents[row] + b * noise[row]
        torch.testing.assert_close(x[row], expected_state, atol=1e-9, rtol=0)
        if time == 999:
            assert torch.equal(x[row], noise[row])  # pure, though alpha_999 = 0.07
    assert 999 in t.tolist() or start == "uniform"


def test_stored_states_cost_no_teacher_pass(hand):
    def never(x, t):
        raise AssertionError("the teacher was asked")

    stored = hand.trajectory(SEEDS, [*FINE, -1])
    terms, _, student, _ = compute(hand, MSC(states="teacher"), trajectory=stored, teacher=never, latents=False)
    x, t, _ = student.asked[0]
    for row, (time, end) in enumerate(zip(terms.t.tolist(), terms.s.tolist(), strict=True)):
        assert torch.equal(x[row], stored.states[row, [*FINE, -1].index(time)])
        target = stored.states[row, [*FINE, -1].index(end)].numpy()
        jump = hand.ddim(student.numpy(row), x[row].numpy(), [time, end])
        assert float(terms.values[row].detach()) == pytest.approx(((jump - target) ** 2).mean(), rel=1e-6)
    assert torch.equal(t, terms.t) and len(student.asked) == 1


@pytest.mark.parametrize("segments", [None, 2])
def test_the_students_own_states(hand, segments):
    """From pure noise along the sampling grid, without gradient; the grid of `segments` where they are given."""
    loss = MSC(states="student", segments=segments, substeps=3)
    terms, batch, student, teacher = compute(hand, loss, latents=False)
    grid, noise = SEGMENTS[segments or 4], batch.draws.normal("noise", hand.SHAPE)
    x, t, grad = student.asked[-1]
    for row, time in enumerate(t.tolist()):
        rolled = hand.ddim(student.numpy(row), noise[row].numpy(), grid[: grid.index(time) + 1])
        torch.testing.assert_close(x[row], torch.from_numpy(rolled), atol=1e-9, rtol=1e-7)
    assert grad and not any(g for *_, g in student.asked[:-1])
    expected = golden(hand, terms, student, teacher, substeps=3)
    torch.testing.assert_close(terms.values.detach(), expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("states", ["teacher", "student"])
def test_states_between_the_times_exist_for_data_alone(states):
    with pytest.raises(ConfigError, match=r"uniform needs loss\.states: data"):
        MSC(states=states, start="uniform")


def test_what_the_data_lack_is_named(hand):
    with pytest.raises(ConfigError, match="sunlab data trajectories"):
        compute(hand, MSC(states="teacher"))
    with pytest.raises(ConfigError, match=r"loss\.states: data needs images or latents.*teacher or student"):
        compute(hand, MSC(states="data"), latents=False)


MEAN, VARIANCE = 0.7, 0.3


class Gaussian:
    """The exact denoiser of data N(m, v), and its flow map x_s = alpha_s m + (d_s / d_t) (x_t - alpha_t m)."""

    def __init__(self, path):
        self.path = path

    def deviation(self, t, x):
        alpha, sigma = self.path.at(t, x)
        return alpha, sigma, (alpha**2 * VARIANCE + sigma**2).sqrt()

    def __call__(self, x, t):
        alpha, sigma, d = self.deviation(t, x)
        return Prediction(sigma / d**2 * (x - alpha * MEAN), "epsilon", x, alpha, sigma)

    def step(self, denoise, x, t, s, memory=None):
        (alpha, _, d), (alpha_s, _, d_s) = self.deviation(t, x), self.deviation(s, x)
        return alpha_s * MEAN + d_s / d * (x - alpha * MEAN), None


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_the_exact_student_is_left_with_the_teachers_solver_error(hand, solver, order):
    exact = Gaussian(hand.PATH)
    times, batch = hand.times_of([900, 600, 300]), hand.batch(range(16))
    student = BoundSampler(exact, exact, times)
    teacher = BoundSampler(exact, registry_of("solvers").build(solver, hand.PATH), times)
    counts = (12, 25, 50, 100)
    errors = [float(MSC(substeps=m)(batch, student, teacher, hand.squared).values.mean().sqrt()) for m in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -slope == pytest.approx(order, abs=0.3) and errors[0] < 0.1, errors


@pytest.mark.parametrize("states", ["data", "student", "teacher"])
@pytest.mark.parametrize("predictions", [False, True])
def test_the_offset_beside_the_jump(hand, states, predictions):
    """w |v_SUN - v_hat|^2 at the same x_t, v = (alpha epsilon - sigma x_0); no further pass of the student, and of the
    teacher none but where a trajectory dataset stores no predictions."""
    grid, c = SEGMENTS[4], np.linspace(-1, 1, len(SEEDS))
    stored = hand.trajectory(SEEDS, grid)
    if predictions:
        stored = replace(stored, guided=stored.states[:, :-1].tanh())
    terms, _, student, teacher = compute(hand, MSC(states=states, substeps=3, offset=0.3), trajectory=stored)
    passes = 3 if states != "teacher" else 0 if predictions else 1
    assert len(teacher.asked) == passes and sum(grad for *_, grad in student.asked) == 1
    x, t, _ = student.asked[-1]
    for row, (time, end) in enumerate(zip(t.tolist(), terms.s.tolist(), strict=True)):
        here, (a, b) = x[row].numpy(), hand.alpha_sigma(time)
        v = {
            name: a * epsilon - b * (here - b * epsilon) / a
            for name, epsilon in (("student", np.tanh(0.8 * here + time / 1000 + c[row])),
                                  ("teacher", np.tanh(0.3 * here + time / 1000 - c[row])))
        }  # fmt: skip
        if states == "teacher":
            target = stored.states[row, grid.index(end)].numpy()
            v["teacher"] = np.tanh(here) if predictions else v["teacher"]
        else:
            target = hand.ddim(teacher.numpy(row), here, [round(float(u)) for u in np.linspace(time, end, 4)])
        jump = ((hand.ddim(student.numpy(row), here, [time, end]) - target) ** 2).mean()
        offset = ((v["student"] - v["teacher"]) ** 2).mean()
        assert float(terms.values[row].detach()) == pytest.approx(jump + 0.3 * offset, rel=1e-5)
        assert float(terms.terms[1][1].values[row].detach()) == pytest.approx(offset, rel=1e-5)
    assert set(terms.logs) == {"loss jump", "loss offset"} and terms.terms[1][1].s is terms.terms[1][1].t


def test_a_negative_weight_of_the_offset():
    with pytest.raises(ConfigError, match=r"loss\.offset .* 0 or more, got -1"):
        MSC(offset=-1.0)
