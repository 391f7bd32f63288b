"""Orders of convergence, measured on a problem whose exact solution is known, on both kinds of path.

For data x_0 ~ N(m, v) the exact denoiser is x_0(x, t) = m + alpha v / (alpha^2 v + sigma^2) (x - alpha m), and the
probability-flow map carries x_t = alpha m + sqrt(alpha^2 v + sigma^2) z along at constant z.
"""

import math

import pytest
import torch

from sunlab.diffusion.grid import grid
from sunlab.diffusion.path import DiscreteVP, RectifiedFlow
from sunlab.diffusion.prediction import Prediction, target
from sunlab.registries import registry_of

VP, FLOW = DiscreteVP.from_betas(), RectifiedFlow()
PATHS = {"vp": VP, "flow": FLOW}
MEAN, VARIANCE = 0.7, 0.3
START, STOP = 0.9, 0.3
ORDERS = {"ddim": 1, "euler": 1, "heun": 2, "dpmpp_2m": 2, "unipc": 3}
REQUESTS = [*ORDERS.items(), ({"name": "dpmpp_2m", "variant": "heun"}, 2), ({"name": "heun", "variable": "flow"}, 2)]
COUNTS = (40, 80, 160, 320)


def deviation(alpha, sigma):
    return (alpha**2 * VARIANCE + sigma**2).sqrt()


def exact(path, z, t):
    alpha, sigma = path.at(t, z)
    return alpha * MEAN + deviation(alpha, sigma) * z


class Gaussian:
    def __init__(self, path, kind="epsilon"):
        self.path, self.kind, self.calls = path, kind, 0

    def __call__(self, x, t):
        self.calls += 1
        alpha, sigma = self.path.at(t, x)
        x_0 = MEAN + alpha * VARIANCE / deviation(alpha, sigma) ** 2 * (x - alpha * MEAN)
        epsilon = (x - alpha * x_0) / sigma
        return Prediction(target(self.kind, x_0, epsilon, alpha, sigma), self.kind, x, alpha, sigma)


def normal(batch=2):
    return torch.randn(batch, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def error(request, path, steps, kind="epsilon", start=START):
    times = torch.linspace(start, STOP, steps + 1, dtype=torch.float64)
    z = normal()
    solver = registry_of("solvers").build(request, path)
    end = solver.solve(Gaussian(path, kind), exact(path, z, times[:1].expand(2)), times)
    return (end - exact(path, z, times[-1:].expand(2))).abs().max().item()


def measured_order(request, path, kind="epsilon", start=START):
    """Minus the slope of log error over log steps, by least squares."""
    x = torch.tensor([math.log(n) for n in COUNTS], dtype=torch.float64)
    y = torch.tensor([math.log(error(request, path, n, kind, start)) for n in COUNTS], dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return -((x * y).sum() / (x * x).sum()).item()


@pytest.mark.parametrize(("request_", "order"), REQUESTS, ids=str)
@pytest.mark.parametrize(("path", "kind"), [("vp", "epsilon"), ("flow", "flow")])
def test_order_of_convergence(path, request_, order, kind):
    assert measured_order(request_, PATHS[path], kind) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("request_", [request for request, _ in REQUESTS], ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_every_kind_of_prediction_has_the_same_solution(path, request_):
    errors = [error(request_, PATHS[path], 20, kind) for kind in ("epsilon", "v_prediction", "sample", "flow")]
    assert errors == pytest.approx([errors[0]] * 4, rel=1e-6)


@pytest.mark.parametrize(("request_", "order"), REQUESTS, ids=str)
def test_order_from_pure_noise(request_, order):
    """From t = 1 of rectified flow, where alpha = 0 and lambda is infinite: a multistep or ratio method has one step of
    lower order there, whose error falls with its length as a second-order method's does."""
    assert measured_order(request_, FLOW, "flow", start=1.0) > min(order, 2) - 0.25


def test_second_order_pays_at_the_teachers_step_size():
    """24 trailing steps are 15 from 0.9 to 0.3."""
    for path in PATHS.values():
        errors = {name: error(name, path, 15) for name in ORDERS}
        assert errors["dpmpp_2m"] < errors["ddim"] / 3 and errors["heun"] < errors["ddim"] / 3
        assert errors["unipc"] < errors["dpmpp_2m"] / 3


TIMES = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(("name", "calls"), [("ddim", 4), ("euler", 4), ("dpmpp_2m", 4), ("unipc", 4), ("heun", 7)])
def test_evaluations(name, calls):
    """Heun's method evaluates twice a step, and once in the step to the clean end."""
    denoise = Gaussian(VP)
    registry_of("solvers").build(name, VP).solve(denoise, normal(), TIMES)
    assert denoise.calls == calls


@pytest.mark.parametrize("request_", [request for request, _ in REQUESTS], ids=str)
@pytest.mark.parametrize("path", [DiscreteVP.from_betas(zero_terminal_snr=True), FLOW, RectifiedFlow(shift=3.0)])
def test_many_steps_from_pure_noise_find_the_distribution(request_, path):
    """x_1 = z, so the exact end is m + sqrt(v) z."""
    end = registry_of("solvers").build(request_, path).solve(Gaussian(path, "v_prediction"), normal(), grid(250, path=path))
    assert (end - MEAN - VARIANCE**0.5 * normal()).abs().max() < 0.02
