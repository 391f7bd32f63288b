"""`cfg` against |e_SUN - e_hat|^2, e_hat = e(x_t, c_neg) + w (e(x_t, c_pos) - e(x_t, c_neg)), computed again in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sunlab.diffusion.guidance import NetworkEvaluations, guided
from sunlab.errors import ConfigError
from sunlab.losses.cfg import CFG
from sunlab.types import Conditioning

SEEDS = tuple(range(10))
TIMES = [999, 749, 499, 249, -1]
POSITIVE, NEGATIVE = np.linspace(-1, 1, len(SEEDS)), np.linspace(2, -2, len(SEEDS))


def tokens(values):
    return Conditioning(torch.tensor(values).reshape(-1, 1, 1))


def teacher(hand, w, passes=None):
    def forward(x, t, conditioning):
        return hand.Toy(0.5, conditioning.tokens.flatten().tolist())(x, t)

    return guided(forward, tokens(POSITIVE), tokens(NEGATIVE), w, nfe=passes)


def in_space(space, epsilon, x, alpha, sigma):
    x_0 = (x - sigma * epsilon) / alpha
    return {"epsilon": epsilon, "x_0": x_0, "v": alpha * epsilon - sigma * x_0}[space]


@pytest.mark.parametrize("space", ["epsilon", "v", "x_0"])
@pytest.mark.parametrize("states", ["data", "teacher", "student"])
def test_the_formula(hand, states, space):
    stored = hand.trajectory(SEEDS, TIMES)
    batch, passes = hand.batch(SEEDS, trajectory=stored), NetworkEvaluations()
    student = hand.Toy(0.8, POSITIVE)
    flows = hand.flow(student, "ddim", TIMES), hand.flow(teacher(hand, batch.guidance, passes), "ddim", TIMES)
    terms = hand.in_steps(CFG(states=states, space=space)(batch, *flows, hand.squared))
    x, t, grad = student.asked[-1]
    assert grad and torch.equal(t, terms.t) and torch.equal(terms.s, terms.t)
    assert passes.teacher == 2 * len(SEEDS)
    for row, time in enumerate(t.tolist()):
        here, (a, b), w = x[row].numpy(), hand.alpha_sigma(time), float(batch.guidance[row])
        positive, negative = (np.tanh(0.5 * here + time / 1000 + c[row]) for c in (POSITIVE, NEGATIVE))
        wanted = in_space(space, negative + w * (positive - negative), here, a, b)
        got = in_space(space, student.numpy(row)(here, time), here, a, b)
        assert float(terms.values[row].detach()) == pytest.approx(((got - wanted) ** 2).mean(), rel=1e-5)
        if states != "data":
            assert time in TIMES[:-1]
        if states == "teacher":
            assert torch.equal(x[row], stored.states[row, TIMES.index(time)])
        if states == "student":
            noise = batch.draws.normal("noise", hand.SHAPE)[row].numpy()
            rolled = hand.ddim(student.numpy(row), noise, TIMES[: TIMES.index(time) + 1])
            torch.testing.assert_close(x[row], torch.from_numpy(rolled), atol=1e-9, rtol=1e-7)
    if states == "data":
        assert len(set(t.tolist())) == len(SEEDS)  # any time, not the grid's


@pytest.mark.parametrize("space", ["epsilon", "v", "x_0"])
def test_the_guided_teacher_as_student_leaves_nothing(hand, space):
    batch = hand.batch(SEEDS)
    flows = [hand.flow(teacher(hand, batch.guidance), "ddim", TIMES) for _ in range(2)]
    terms = hand.in_steps(CFG(space=space)(batch, *flows, hand.squared))
    assert torch.equal(terms.values.detach(), torch.zeros(len(SEEDS), dtype=torch.float64))


@pytest.mark.parametrize("space", ["epsilon", "v", "x_0"])
def test_stored_predictions_cost_no_teacher_pass(hand, space):
    """v in the file; epsilon = sigma x + alpha v and x_0 = alpha x - sigma v of it."""

    def never(x, t):
        raise AssertionError("the teacher was evaluated")

    stored = hand.trajectory(SEEDS, TIMES)
    stored = replace(stored, guided=stored.states[:, :-1].tanh())
    student = hand.Toy(0.8, POSITIVE)
    flows = hand.flow(student, "ddim", TIMES), hand.flow(never, "ddim", TIMES)
    loss = CFG(states="teacher", space=space)
    terms = hand.in_steps(loss(hand.batch(SEEDS, trajectory=stored), *flows, hand.squared))
    for row, time in enumerate(terms.t.tolist()):
        here, (a, b) = stored.states[row, TIMES.index(time)].numpy(), hand.alpha_sigma(time)
        wanted = {"v": np.tanh(here), "epsilon": b * here + a * np.tanh(here), "x_0": a * here - b * np.tanh(here)}[space]
        got = in_space(space, student.numpy(row)(here, time), here, a, b)
        assert float(terms.values[row].detach()) == pytest.approx(((got - wanted) ** 2).mean(), rel=1e-5)


def test_stored_states_need_trajectories(hand):
    batch = hand.batch(SEEDS)
    flows = [hand.flow(teacher(hand, batch.guidance), "ddim", TIMES) for _ in range(2)]
    with pytest.raises(ConfigError, match="sunlab data trajectories"):
        CFG(states="teacher")(batch, *flows, hand.squared)
