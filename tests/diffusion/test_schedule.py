import math

import pytest
import torch
from diffusers import DDPMScheduler

from sunlab.diffusion.schedule import Schedule
from sunlab.errors import ConfigError
from sunlab.types import END

KINDS = ("scaled_linear", "linear", "squaredcos_cap_v2")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero", [False, True])
def test_the_table_is_diffusers(kind, zero):
    theirs = DDPMScheduler(beta_schedule=kind, beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=zero)
    ours = Schedule.from_betas(kind=kind, zero_terminal_snr=zero).alphas_cumprod
    # theirs is a product of 1,000 float32 numbers
    torch.testing.assert_close(ours.float(), theirs.alphas_cumprod, atol=1e-6, rtol=5e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero", [False, True])
def test_variance_preserving_and_ever_noisier(kind, zero):
    schedule = Schedule.from_betas(kind=kind, zero_terminal_snr=zero)
    t = torch.linspace(0, 999, 4321, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), atol=1e-14, rtol=0)
    assert bool((alpha.diff() <= 0).all()) and bool((sigma.diff() >= 0).all())


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_step():
    plain, zero = Schedule.from_betas(), Schedule.from_betas(zero_terminal_snr=True)
    assert [c.item() for c in zero.alpha_sigma(999)] == [0.0, 1.0]
    assert zero.log_snr(999).item() == -math.inf
    torch.testing.assert_close(zero.alphas_cumprod[0], plain.alphas_cumprod[0])


def test_known_values_of_stable_diffusion():
    alpha, sigma = Schedule.from_betas().alpha_sigma(torch.tensor([0, 999]))
    assert alpha[0].item() == pytest.approx(math.sqrt(1 - 0.00085), abs=1e-12)
    assert (sigma / alpha)[1].item() == pytest.approx(14.6146, abs=1e-3)


def test_the_clean_end():
    schedule = Schedule.from_betas()
    assert [c.item() for c in schedule.alpha_sigma(END)] == [1.0, 0.0]
    assert schedule.log_snr(END).item() == math.inf


def test_between_steps_log_alpha_squared_is_linear():
    schedule = Schedule.from_betas()
    table = schedule.alphas_cumprod
    alpha, _ = schedule.alpha_sigma(torch.tensor([500.25, 999.0], dtype=torch.float64))
    expected = 0.75 * table[500].log() + 0.25 * table[501].log()
    torch.testing.assert_close(2 * alpha[0].log(), expected)
    assert alpha[1] == table[999].sqrt()


@pytest.mark.parametrize("t", [-0.5, -2, 1000, 999.01])
def test_times_outside_are_refused(t):
    with pytest.raises(ValueError, match="999"):
        Schedule.from_betas().alpha_sigma(t)


def test_unknown_schedules_are_refused():
    with pytest.raises(ConfigError, match="sigmoid"):
        Schedule.from_betas(kind="sigmoid")  # type: ignore[arg-type]


def test_add_noise_is_diffusers():
    theirs = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    x_0, noise = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 500, 999])
    ours = Schedule.from_betas().add_noise(x_0, noise, t)
    torch.testing.assert_close(ours, theirs.add_noise(x_0, noise, t), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_at_is_shaped_and_typed_for_its_state(dtype):
    like = torch.zeros(2, 4, 3, 3, dtype=dtype)
    alpha, sigma = Schedule.from_betas().at(torch.tensor([3, END]), like)
    assert alpha.shape == sigma.shape == (2, 1, 1, 1)
    assert alpha.dtype == sigma.dtype == dtype
