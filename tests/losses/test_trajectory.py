"""`trajectory` against its formula, computed again in numpy."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from sunlab.errors import ConfigError
from sunlab.losses.trajectory import TrajectoryRegression

SEEDS = tuple(range(40))
TIMES = [999, 749, 499, 249, -1]
FINE = [999, 874, 749, 624, 499, 374, 249, 124, -1]
LATER = {
    "next": dict(pairwise(FINE)),
    "end": dict.fromkeys(FINE[:-1], -1),
    "segment": {t: max(edge for edge in TIMES if edge < t) for t in FINE[:-1]},
}


def never(x, t):
    raise AssertionError("the teacher was asked")


@pytest.mark.parametrize("target", LATER)
def test_the_formula(hand, target):
    student, stored = hand.Toy(0.8, np.linspace(-1, 1, len(SEEDS))), hand.trajectory(SEEDS, FINE)
    batch = hand.batch(SEEDS, latents=False, trajectory=stored)
    flows = hand.flow(student, "ddim", TIMES), hand.flow(never, "ddim", TIMES)
    terms = hand.in_steps(TrajectoryRegression(target=target)(batch, *flows, hand.squared))
    for row, (t, s) in enumerate(zip(terms.t.tolist(), terms.s.tolist(), strict=True)):
        assert s == LATER[target][t]
        jump = hand.ddim(student.numpy(row), stored.states[row, FINE.index(t)].numpy(), [t, s])
        later = stored.states[row, FINE.index(s)].numpy()
        assert float(terms.values[row].detach()) == pytest.approx(((jump - later) ** 2).mean(), rel=1e-8)
    assert set(terms.t.tolist()) == set(FINE[:-1])
    assert len(student.asked) == 1 and torch.equal(student.asked[0][1], terms.t)


def test_it_needs_trajectories(hand):
    flow = hand.flow(hand.Toy(0.8, np.zeros(len(SEEDS))), "ddim", TIMES)
    with pytest.raises(ConfigError, match="sunlab data trajectories"):
        TrajectoryRegression()(hand.batch(SEEDS), flow, flow, hand.squared)
