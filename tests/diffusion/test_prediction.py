import pytest
import torch

from sunlab.diffusion.prediction import Prediction, guide, target
from sunlab.diffusion.schedule import Schedule

KINDS = ("epsilon", "v_prediction")
SHAPE = (5, 2, 3, 3)
T = torch.tensor([0, 1, 250, 750, 999])


@pytest.fixture
def numbers():
    generator = torch.Generator().manual_seed(0)
    x_0, epsilon = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    alpha, sigma = Schedule.from_betas().at(T, x_0)
    return x_0, epsilon, alpha, sigma


def predict(kind, x_0, epsilon, alpha, sigma):
    return Prediction(target(kind, x_0, epsilon, alpha, sigma), kind, alpha * x_0 + sigma * epsilon, alpha, sigma)


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_output_reads_as_the_truth(kind, numbers):
    x_0, epsilon, alpha, sigma = numbers
    prediction = predict(kind, *numbers)
    for read, truth in (
        (prediction.x_0, x_0),
        (prediction.epsilon, epsilon),
        (prediction.v, alpha * epsilon - sigma * x_0),
    ):
        torch.testing.assert_close(read, truth, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_any_output_survives_the_way_through_the_other_parametrisation(kind, numbers):
    x, value, alpha, sigma = numbers  # any state, any output
    prediction = Prediction(value, kind, x, alpha, sigma)
    torch.testing.assert_close(alpha * prediction.x_0 + sigma * prediction.epsilon, x, atol=1e-12, rtol=0)
    other = "v_prediction" if kind == "epsilon" else "epsilon"
    there = Prediction(prediction.v if kind == "epsilon" else prediction.epsilon, other, x, alpha, sigma)
    back = there.epsilon if kind == "epsilon" else there.v
    torch.testing.assert_close(back, value, atol=1e-10, rtol=0)
    torch.testing.assert_close(there.x_0, prediction.x_0, atol=1e-10, rtol=0)


def test_v_is_finite_at_pure_noise():
    alpha, sigma = Schedule.from_betas(zero_terminal_snr=True).at(torch.tensor([999]), torch.zeros(1, 1, 1, 1))
    x = torch.full((1, 1, 1, 1), 0.5)
    prediction = Prediction(torch.full_like(x, 0.25), "v_prediction", x, alpha, sigma)
    assert prediction.x_0.item() == -0.25  # v = -x_0 there
    assert prediction.epsilon.item() == 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reading", ["x_0", "epsilon", "v"])
def test_guidance_is_the_same_in_every_parametrisation(kind, reading, numbers):
    x, first, alpha, sigma = numbers
    positive = Prediction(first, kind, x, alpha, sigma)
    negative = Prediction(first.flip(0), kind, x, alpha, sigma)
    w = torch.tensor([0.0, 1.0, 1.5, 3.0, 7.5], dtype=torch.float64)
    guided = getattr(guide(positive, negative, w), reading)
    e_pos, e_neg = getattr(positive, reading), getattr(negative, reading)
    torch.testing.assert_close(guided, e_neg + w.reshape(-1, 1, 1, 1) * (e_pos - e_neg), atol=1e-9, rtol=0)


def test_detach_cuts_the_graph():
    value = torch.ones(1, 1, 1, 1, requires_grad=True)
    one = torch.ones(1, 1, 1, 1)
    assert not Prediction(value, "epsilon", one, one, one).detach().x_0.requires_grad
