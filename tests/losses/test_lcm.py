"""`lcm` against the public recipe, computed again in numpy (arXiv 2310.04378, 2311.05556)."""

import math

import numpy as np
import pytest
import torch

from sunlab.losses.lcm import LCM
from sunlab.registries import registry_of

SEEDS = (*range(40), 51, 47)  # the last two draw the first point and the last
POINTS = [20 * i - 1 for i in range(1, 51)]  # 19, 39, ..., 999


def clean(hand, epsilon, x, t, *, data=0.5, scaling=10):
    """f = c_skip x + c_out x_0."""
    a, b = hand.alpha_sigma(t)
    square = (scaling * t) ** 2 + data**2
    return data**2 / square * x + scaling * t / math.sqrt(square) * (x - b * epsilon(x, t)) / a


def compute(hand, loss):
    c = np.linspace(-1, 1, len(SEEDS))
    student, teacher, batch = hand.Toy(0.8, c), hand.Toy(0.3, -c), hand.batch(SEEDS)
    times = [999, 749, 499, 249, -1]
    flows = hand.flow(student, "ddim", times), hand.flow(teacher, "dpmpp_2m", times)
    distance = registry_of("distances").build({"name": "huber", "c": 1e-3})
    return hand.in_steps(loss(batch, *flows, distance)), batch, student, teacher


@pytest.mark.parametrize("options", [{}, {"sigma_data": 2.0, "timestep_scaling": 0.01}])
def test_the_recipe(hand, options):
    terms, batch, student, teacher = compute(hand, LCM(**options))
    given = {"data": options.get("sigma_data", 0.5), "scaling": options.get("timestep_scaling", 10)}
    noise = batch.draws.normal("noise", hand.SHAPE)
    for row, t in enumerate(terms.t.tolist()):
        assert t in POINTS
        a, b = hand.alpha_sigma(t)
        x = (a * batch.latents[row] + b * noise[row]).numpy()
        u = max(t - 20, 0)  # from 19 the recipe's step ends at t = 0, with abar_0
        nearer = hand.ddim(teacher.numpy(row), x, [t, u])
        target = nearer if u == 0 else clean(hand, student.numpy(row), nearer, u, **given)
        d = clean(hand, student.numpy(row), x, t, **given) - target
        huber = (np.sqrt(d**2 + 1e-6) - 1e-3).mean()
        assert float(terms.values[row].detach()) == pytest.approx(huber, rel=1e-8)
    assert 19 in terms.t.tolist() and 999 in terms.t.tolist() and set(terms.s.tolist()) == {0}
    assert [grad for *_, grad in student.asked] == [False, True] and len(teacher.asked) == 1


def test_at_the_boundary_f_is_the_identity(hand):
    """c_skip(0) = 1, c_out(0) = 0: the target at t = 0 is the state itself."""
    x = np.linspace(-1, 1, 18).reshape(hand.SHAPE)
    assert np.array_equal(clean(hand, lambda x, t: np.tanh(x), x, 0), x)


def test_without_the_boundary_it_ends_in_clean_data(hand):
    terms, *_ = compute(hand, LCM(boundary="none"))
    assert set(terms.s.tolist()) == {-1} and set(terms.t.tolist()) <= set(POINTS)
    other = compute(hand, LCM())[0]
    far = terms.t > 19
    assert torch.equal(terms.t, other.t)
    torch.testing.assert_close(terms.values[far], other.values[far], rtol=1e-4, atol=1e-6)  # c_skip is tiny there
