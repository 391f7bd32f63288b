import math
from itertools import pairwise

import pytest
import torch

from sunlab.diffusion.grid import grid
from sunlab.diffusion.path import DiscreteVP, RectifiedFlow
from sunlab.losses.weighting import WEIGHTINGS

PATH = DiscreteVP.from_betas()
STEPS = {1: [999, -1], 4: [999, 749, 499, 249, -1], 8: [999, 874, 749, 624, 499, 374, 249, 124, -1]}


def abar(t: int) -> float:
    """alpha_t^2 of Stable Diffusion, from the definition of its betas."""
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    return math.prod(1 - (low + (high - low) * i / 999) ** 2 for i in range(t + 1))


def weights(request, t, s):
    return WEIGHTINGS.build(request)(
        PATH, *((torch.tensor(steps, dtype=torch.float64) + 1) / 1000 for steps in (t, s))
    ).tolist()


def test_uniform():
    assert weights("uniform", [999, 3], [749, -1]) == [1.0, 1.0]


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr(gamma):
    times = [0, 100, 300, 500, 999]
    snr = [abar(t) / (1 - abar(t)) for t in times]
    expected = [min(r, gamma) / r for r in snr]
    assert weights({"name": "min_snr", "gamma": gamma}, times, times) == pytest.approx(expected, rel=1e-5)
    assert expected[0] < 0.01 and expected[-1] == 1


def test_x_0_turns_the_error_of_v_into_that_of_x_0():
    times = [20, 300, 500, 999]
    expected = [max(1 - abar(t), 0.05) for t in times]
    assert weights({"name": "x_0", "floor": 0.05}, times, times) == pytest.approx(expected, rel=1e-5)
    assert expected[0] == 0.05 and expected[1] > 0.05


def jumps(times):
    """What a unit epsilon error moves x_s by, from its definition."""
    moved = []
    for t, s in pairwise(times):
        a_t, a_s = abar(t), 1.0 if s < 0 else abar(s)
        moved.append(abs(math.sqrt(1 - a_s) - math.sqrt(a_s * (1 - a_t) / a_t)))
    return moved


def test_the_four_jumps_of_stable_diffusion():
    assert jumps(STEPS[4]) == pytest.approx([2.5064, 1.3009, 0.7558, 0.6932], abs=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_inverse_jump(steps):
    times = STEPS[steps]
    expected = [c**-2 for c in jumps(times)]
    assert weights("inverse_jump", times[:-1], times[1:]) == pytest.approx(expected, rel=1e-5)


ENDS_IN_NOISE = [("v_prediction", RectifiedFlow(shift=3.0)), ("v_prediction", DiscreteVP.from_betas(zero_terminal_snr=True))]


@pytest.mark.parametrize(("kind", "path"), [("epsilon", PATH), ("v_prediction", PATH), *ENDS_IN_NOISE])
def test_inverse_jump_undoes_the_measure_in_x_s(kind, path):
    """A unit error of the prediction costs the same, whatever the jump; that of v also where x_t is pure noise."""
    from sunlab.diffusion.prediction import Prediction

    t, s = grid(4, path=path)[:-1], grid(4, path=path)[1:]
    x = torch.zeros(4, 1, 1, 1, dtype=torch.float64)
    (alpha, sigma), (alpha_s, sigma_s) = path.at(t, x), path.at(s, x)
    off = Prediction(torch.ones_like(x), kind, x, alpha, sigma)
    error = (alpha_s * off.x_0 + sigma_s * off.epsilon).flatten() ** 2  # the true prediction is 0, and moves x = 0 to 0
    weight = WEIGHTINGS.build({"name": "inverse_jump", "space": {"epsilon": "epsilon", "v_prediction": "v"}[kind]})(
        path, t, s
    )
    torch.testing.assert_close(error.float() * weight, torch.ones(4))


@pytest.mark.parametrize("space", ["epsilon", "v"])
def test_a_jump_of_no_length_weighs_nothing(space):
    assert weights({"name": "inverse_jump", "space": space}, [500], [500]) == [0.0]
