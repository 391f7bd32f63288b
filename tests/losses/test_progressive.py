"""`progressive` against algorithm 2 of arXiv 2202.00512, and its weighting, computed again in numpy."""

import numpy as np
import pytest
import torch

from sunlab.losses.progressive import Progressive
from sunlab.losses.weighting import WEIGHTINGS

SEEDS = tuple(range(12))
TIMES = [999, 749, 499, 249, -1]
HALVES = {999: 874, 749: 624, 499: 374, 249: 124}


@pytest.mark.parametrize("states", ["data", "teacher", "student"])
def test_the_formula(hand, states):
    c = np.linspace(-1, 1, len(SEEDS))
    student, teacher = hand.Toy(0.8, c), hand.Toy(0.3, -c)
    stored = hand.trajectory(SEEDS, TIMES)
    batch = hand.batch(SEEDS, trajectory=stored)
    flows = hand.flow(student, "ddim", TIMES), hand.flow(teacher, "ddim", TIMES)
    terms = hand.in_steps(Progressive(states=states)(batch, *flows, hand.squared))
    x, times, _ = student.asked[-1]
    for row, (t, s) in enumerate(zip(terms.t.tolist(), terms.s.tolist(), strict=True)):
        here, (a, b), (a_s, b_s) = x[row].numpy(), hand.alpha_sigma(t), hand.alpha_sigma(s)
        z_s = hand.ddim(teacher.numpy(row), here, [t, HALVES[t], s])
        target = (z_s - b_s / b * here) / (a_s - b_s / b * a)
        mine = (here - b * student.numpy(row)(here, t)) / a
        assert float(terms.values[row].detach()) == pytest.approx(((mine - target) ** 2).mean(), rel=1e-8)
        arrived = a_s * target + b_s / b * (here - a * target)  # the student with this x_0 lands where the teacher does
        assert np.allclose(arrived, z_s, atol=1e-10)
        if states == "teacher":
            assert torch.equal(x[row], stored.states[row, TIMES.index(t)])
        if states == "student":
            noise = batch.draws.normal("noise", hand.SHAPE)[row].numpy()
            rolled = hand.ddim(student.numpy(row), noise, TIMES[: TIMES.index(t) + 1])
            assert np.allclose(here, rolled, atol=1e-10)
    assert torch.equal(times, terms.t) and set(times.tolist()) == set(TIMES[:-1])
    assert len(teacher.asked) == 2 and not any(grad for *_, grad in teacher.asked)


def test_its_weighting(hand):
    times = [0, 100, 300, 999]
    snr = [(a / b) ** 2 for a, b in map(hand.alpha_sigma, times)]
    weights = WEIGHTINGS.build("truncated_snr")(hand.PATH, *[hand.times_of(times)] * 2)
    assert weights.tolist() == pytest.approx([max(ratio, 1) for ratio in snr], rel=1e-6)
    assert snr[0] > 1000 and snr[-1] < 0.01
