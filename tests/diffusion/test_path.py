"""Probability paths: formulas, inverses, the clean and the noisy end."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from sunlab.diffusion.path import DiscreteVP, RectifiedFlow
from sunlab.errors import ConfigError

PATHS = {
    "vp": DiscreteVP.from_betas(),
    "vp, zero terminal SNR": DiscreteVP.from_betas(zero_terminal_snr=True),
    "flow": RectifiedFlow(),
}
ALL = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@ALL
def test_from_noise_to_clean(path):
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(t)
    assert alpha.dtype == sigma.dtype == torch.float64 and alpha.shape == t.shape
    assert alpha[0] == 1 and sigma[0] == 0
    assert bool((alpha.diff() < 0).all()) and bool((sigma.diff() >= 0).all())
    assert bool((path.log_snr(t).diff() < 0).all())
    assert path.log_snr(0.0) == math.inf


def test_noise_at_the_end():
    assert PATHS["vp"].alpha_sigma(1.0)[0] == pytest.approx(0.0682, abs=1e-4)
    for name in ("vp, zero terminal SNR", "flow"):
        alpha, sigma = PATHS[name].alpha_sigma(1.0)
        assert alpha == 0 and sigma == 1 and PATHS[name].log_snr(1.0) == -math.inf


def test_straight():
    t = torch.rand(50, dtype=torch.float64)
    alpha, sigma = RectifiedFlow().alpha_sigma(t)
    assert torch.equal(alpha, 1 - t) and torch.equal(sigma, t)


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("kind", ["scaled_linear", "linear", "squaredcos_cap_v2"])
def test_the_tables_are_diffusers(kind, zero_terminal_snr):
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule=kind, rescale_betas_zero_snr=zero_terminal_snr
    )
    path = DiscreteVP.from_betas(kind=kind, zero_terminal_snr=zero_terminal_snr)
    alpha, sigma = path.alpha_sigma((torch.arange(1000, dtype=torch.float64) + 1) / 1000)
    torch.testing.assert_close(alpha.float() ** 2, scheduler.alphas_cumprod, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1000, 937, 24])
def test_whole_steps_read_the_table_exactly(steps):
    """Whatever the rounding of (i + 1) / T."""
    table = torch.linspace(0.99, 0.01, steps, dtype=torch.float64)
    path = DiscreteVP(table)
    times = torch.tensor([path.time(i) for i in range(steps)], dtype=torch.float64)
    for nearby in (times, times * (1 + 1e-15), times - 1e-12):
        assert torch.equal(path.alpha_sigma(nearby)[0], table.sqrt())
        assert torch.equal(path.step(nearby), torch.arange(steps, dtype=torch.float64))
    assert path.step(0.0) == -1 and path.t_min == 1 / steps


def test_between_steps_log_alpha_is_linear():
    path = DiscreteVP.from_betas()
    roots = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000)
    abar = np.cumprod(1 - roots**2)
    expected = math.sqrt(abar[499] ** 0.75 * abar[500] ** 0.25)
    assert float(path.alpha_sigma(0.50025)[0]) == pytest.approx(expected, rel=1e-12)
    assert float(path.alpha_sigma(0.0005)[0]) == pytest.approx(abar[0] ** 0.25, rel=1e-12)


def test_steps_of_a_flow():
    path, scheduler = RectifiedFlow(), FlowMatchEulerDiscreteScheduler()
    t = torch.tensor([1.0, 0.5, 0.001, 0.0], dtype=torch.float64)
    assert path.step(t).tolist() == [1000, 500, 1, 0] and path.t_min == 0 and path.time(250) == 0.25
    assert path.step(scheduler.sigmas[0].double()) == scheduler.timesteps[0]


@ALL
def test_adding_noise(path):
    x_0, noise = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    x = path.add_noise(x_0, noise, t)
    assert x.dtype == torch.float32 and torch.equal(x[0], x_0[0])
    for row, time in enumerate(t.tolist()):
        alpha, sigma = map(float, path.alpha_sigma(time))
        torch.testing.assert_close(x[row], alpha * x_0[row] + sigma * noise[row])


@ALL
def test_whole_times_are_refused(path):
    with pytest.raises(TypeError, match=r"\(i \+ 1\) / 1000"):
        path.alpha_sigma(torch.tensor([999]))
    for wrong in (-1.0, 999, float("nan")):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            path.alpha_sigma(wrong)


def test_wrong_options():
    with pytest.raises(ConfigError, match="scaled_linear"):
        DiscreteVP.from_betas(kind="quadratic")
    with pytest.raises(ConfigError, match="shift"):
        RectifiedFlow(shift=0)
