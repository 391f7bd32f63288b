"""Orders of convergence, measured on a problem whose exact solution is known.

For data x_0 ~ N(m, v) the exact denoiser is x_0(x, t) = m + alpha v / (alpha^2 v + sigma^2) (x - alpha m), and the
probability-flow map carries x_t = alpha m + sqrt(alpha^2 v + sigma^2) z along at constant z.
"""

import math

import pytest
import torch

from sunlab.diffusion.prediction import Prediction, target
from sunlab.diffusion.schedule import Schedule
from sunlab.errors import ConfigError
from sunlab.registries import registry_of
from sunlab.types import END

SCHEDULE = Schedule.from_betas()
MEAN, VARIANCE = 0.7, 0.3
START, STOP = 900.0, 300.0
ORDERS = {
    "ddim": 1,
    "euler": 1,
    "heun": 2,
    "dpmpp_2m": 2,
}
COUNTS = (20, 40, 80, 160, 320)


def deviation(alpha, sigma):
    return (alpha**2 * VARIANCE + sigma**2).sqrt()


def exact(z, t):
    alpha, sigma = SCHEDULE.at(t, z)
    return alpha * MEAN + deviation(alpha, sigma) * z


class Gaussian:
    def __init__(self, kind="epsilon"):
        self.kind, self.calls = kind, 0

    def __call__(self, x, t):
        self.calls += 1
        alpha, sigma = SCHEDULE.at(t, x)
        x_0 = MEAN + alpha * VARIANCE / deviation(alpha, sigma) ** 2 * (x - alpha * MEAN)
        epsilon = (x - alpha * x_0) / sigma
        return Prediction(target(self.kind, x_0, epsilon, alpha, sigma), self.kind, x, alpha, sigma)


def normal(batch=2):
    return torch.randn(batch, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def error(solver, steps, kind="epsilon"):
    times = torch.linspace(START, STOP, steps + 1, dtype=torch.float64)
    z = normal()
    end = solver.solve(Gaussian(kind), exact(z, times[:1].expand(2)), times)
    return (end - exact(z, times[-1:].expand(2))).abs().max().item()


def measured_order(solver, kind="epsilon"):
    """Minus the slope of log error over log steps, by least squares."""
    x = torch.tensor([math.log(n) for n in COUNTS], dtype=torch.float64)
    y = torch.tensor([math.log(error(solver, n, kind)) for n in COUNTS], dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return -((x * y).sum() / (x * x).sum()).item()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("request_", "order"), [*ORDERS.items(), ({"name": "dpmpp_2m", "variant": "heun"}, 2)], ids=str)
def test_order_of_convergence(request_, order, kind):
    solver = registry_of("solvers").build(request_, SCHEDULE)
    assert measured_order(solver, kind) == pytest.approx(order, abs=0.25)


def test_second_order_pays_at_the_teachers_step_size():
    """24 trailing steps take 41.7 times each: 15 of them from 900 to 300."""
    errors = {name: error(registry_of("solvers").build(name, SCHEDULE), 15) for name in ORDERS}
    assert errors["dpmpp_2m"] < errors["ddim"] / 3 and errors["heun"] < errors["ddim"] / 3


def test_euler_is_ddim():
    """In sigma / alpha, with epsilon as the slope, they are the same formula."""
    results = [registry_of("solvers").build(n, SCHEDULE).solve(Gaussian(), normal(), TIMES) for n in ("ddim", "euler")]
    torch.testing.assert_close(*results, atol=1e-12, rtol=0)


TIMES = torch.tensor([999, 749, 499, 249, END])


@pytest.mark.parametrize(("name", "calls"), [("ddim", 4), ("euler", 4), ("dpmpp_2m", 4), ("heun", 7)])
def test_evaluations(name, calls):
    """Heun asks twice a step, and once in the step to the clean end."""
    denoise = Gaussian()
    registry_of("solvers").build(name, SCHEDULE).solve(denoise, normal(), TIMES)
    assert denoise.calls == calls


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_a_start_in_pure_noise_is_refused_with_a_remedy(name):
    schedule = Schedule.from_betas(zero_terminal_snr=True)
    with pytest.raises(ConfigError, match="ddim or dpmpp_2m"):
        registry_of("solvers").build(name, schedule).solve(Gaussian("v_prediction"), normal(), TIMES)
