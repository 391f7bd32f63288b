from itertools import product
from typing import get_args

import pytest
import torch
from diffusers import LCMScheduler

from sunlab.diffusion.path import DiscreteVP, RectifiedFlow
from sunlab.diffusion.prediction import Prediction, check_parametrisation, consistency_function, guide, target
from sunlab.errors import ConfigError
from sunlab.types import PredictionType

KINDS = get_args(PredictionType)
READ = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x_0", "flow": "flow"}
PATHS = {"vp": DiscreteVP.from_betas(), "flow": RectifiedFlow()}
SHAPE = (5, 2, 3, 3)
T = torch.tensor([0.001, 0.002, 0.25, 0.75, 0.999], dtype=torch.float64)


@pytest.fixture(params=PATHS)
def numbers(request):
    generator = torch.Generator().manual_seed(0)
    x_0, epsilon = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    return x_0, epsilon, *PATHS[request.param].at(T, x_0)


def predict(kind, x_0, epsilon, alpha, sigma):
    return Prediction(target(kind, x_0, epsilon, alpha, sigma), kind, alpha * x_0 + sigma * epsilon, alpha, sigma)


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_output_reads_as_the_truth(kind, numbers):
    x_0, epsilon, alpha, sigma = numbers
    prediction = predict(kind, *numbers)
    truth = {"x_0": x_0, "epsilon": epsilon, "v": alpha * epsilon - sigma * x_0, "flow": epsilon - x_0}
    for name, value in truth.items():
        torch.testing.assert_close(getattr(prediction, name), value, atol=1e-11, rtol=0)


@pytest.mark.parametrize(("kind", "other"), [pair for pair in product(KINDS, KINDS) if pair[0] != pair[1]])
def test_any_output_survives_the_way_through_another_parametrisation(kind, other, numbers):
    x, value, alpha, sigma = numbers  # any state, any output
    prediction = Prediction(value, kind, x, alpha, sigma)
    torch.testing.assert_close(alpha * prediction.x_0 + sigma * prediction.epsilon, x, atol=1e-10, rtol=0)
    there = Prediction(getattr(prediction, READ[other]), other, x, alpha, sigma)
    torch.testing.assert_close(getattr(there, READ[kind]), value, atol=1e-7, rtol=1e-9)
    torch.testing.assert_close(there.x_0, prediction.x_0, atol=1e-7, rtol=1e-9)


@pytest.mark.parametrize("path", [DiscreteVP.from_betas(zero_terminal_snr=True), RectifiedFlow()])
@pytest.mark.parametrize("kind", ["v_prediction", "sample", "flow"])
def test_pure_noise_and_the_clean_end_are_finite(kind, path):
    """At t = 1, alpha = 0: the state is epsilon. At t = 0, sigma = 0: it is x_0."""
    alpha, sigma = path.at(torch.tensor([1.0, 0.0], dtype=torch.float64), torch.zeros(2, 1, 1, 1))
    x_0, x = torch.full((2, 1, 1, 1), -0.25), torch.tensor([0.5, -0.25]).reshape(2, 1, 1, 1)
    epsilon = torch.tensor([0.5, 0.0]).reshape(2, 1, 1, 1)
    prediction = Prediction(target(kind, x_0, epsilon, alpha, sigma), kind, x, alpha, sigma)
    torch.testing.assert_close(prediction.x_0, x_0)
    torch.testing.assert_close(prediction.epsilon, epsilon)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reading", ["x_0", "epsilon", "v", "flow"])
def test_guidance_is_the_same_in_every_parametrisation(kind, reading, numbers):
    x, first, alpha, sigma = numbers
    positive = Prediction(first, kind, x, alpha, sigma)
    negative = Prediction(first.flip(0), kind, x, alpha, sigma)
    w = torch.tensor([0.0, 1.0, 1.5, 3.0, 7.5], dtype=torch.float64)
    guided = getattr(guide(positive, negative, w), reading)
    e_pos, e_neg = getattr(positive, reading), getattr(negative, reading)
    torch.testing.assert_close(guided, e_neg + w.reshape(-1, 1, 1, 1) * (e_pos - e_neg), atol=1e-8, rtol=1e-9)


def test_detach_cuts_the_graph():
    value = torch.ones(1, 1, 1, 1, requires_grad=True)
    one = torch.ones(1, 1, 1, 1)
    assert not Prediction(value, "epsilon", one, one, one).detach().x_0.requires_grad


def test_epsilon_says_nothing_from_pure_noise():
    check_parametrisation("epsilon", PATHS["vp"])
    check_parametrisation("flow", PATHS["flow"])
    for path in (PATHS["flow"], DiscreteVP.from_betas(zero_terminal_snr=True)):
        with pytest.raises(ConfigError, match=r"model\.prediction_type"):
            check_parametrisation("epsilon", path)
    with pytest.raises(ConfigError, match="epsilon, v_prediction, sample, flow"):
        check_parametrisation("x0", PATHS["vp"])


def test_the_consistency_function_is_diffusers(numbers):
    x_0 = numbers[0]
    prediction, step = predict("sample", *numbers), torch.tensor([0, 1, 249, 749, 998])
    f = consistency_function(prediction, (torch.ones_like(step), step), sigma_data=0.5, timestep_scaling=10.0)
    for row, i in enumerate(step):
        c_skip, c_out = LCMScheduler().get_scalings_for_boundary_condition_discrete(i)
        torch.testing.assert_close(f[row], c_skip * prediction.x[row] + c_out * x_0[row], check_dtype=False)
    assert torch.equal(f[0], prediction.x[0])
