"""`lcm` and `tcd`: the same model and the same noise through diffusers' schedulers and through ours, and their distribution
where it is known in closed form."""

from itertools import pairwise

import pytest
import torch
from diffusers import LCMScheduler, TCDScheduler

from sunlab.diffusion.path import DiscreteVP, RectifiedFlow
from sunlab.diffusion.prediction import Prediction
from sunlab.errors import ConfigError
from sunlab.registries import registry_of
from sunlab.solvers.renoise import GOLDEN, keys_of, mixed, renoise

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
TOLERANCE = 1e-5
GRIDS = {1: [999], 2: [999, 499], 4: [999, 749, 499, 249]}

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def start(batch=2, shape=(4, 8, 8), seed=0):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


def output(x, t, scheduler):
    """A smooth v, or the epsilon that goes with it; t a number or (B, 1, 1, 1)."""
    v = torch.tanh(0.8 * x + t / 1000 + 0.3 * x.roll(1, -1))
    if scheduler.config.prediction_type == "v_prediction":
        return v
    squared = scheduler.alphas_cumprod[torch.as_tensor(t).long()].to(x.dtype)
    return (1 - squared).sqrt() * x + squared.sqrt() * v


def solver(name, scheduler, **options):
    return registry_of("solvers").build({"name": name, **options}, DiscreteVP(scheduler.alphas_cumprod))


def ours(built, scheduler, times, x):
    def denoise(x, t):
        value = output(x, built.path.step(t).reshape(-1, 1, 1, 1), scheduler).to(x)
        return Prediction(value, scheduler.config.prediction_type, x, *built.path.at(t, x))

    return built.solve(denoise, x, times_of(times))


def times_of(steps):
    return (torch.tensor(steps, dtype=torch.float64) + 1) / 1000


def theirs(scheduler, times, x, **options):
    scheduler.set_timesteps(timesteps=times)
    for t in scheduler.timesteps:
        x = scheduler.step(output(x, t, scheduler), t, x, **options).prev_sample
    return x


@pytest.fixture
def handed(monkeypatch):
    """Have a scheduler take its noise from a list, in place of torch's generator."""

    def into(module, noises):
        queue = iter(noises)
        monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", lambda *_, **__: next(queue))

    return into


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", GRIDS)
def test_tcd_without_noise(steps, kind):
    scheduler = TCDScheduler(**SD, prediction_type=kind)
    built = solver("tcd", scheduler, gamma=0.0)
    expected = theirs(scheduler, GRIDS[steps], start(), eta=0.0)
    assert (ours(built, scheduler, [*GRIDS[steps], -1], start()) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", GRIDS)
def test_tcd_without_noise_is_ddim(steps, kind):
    scheduler = TCDScheduler(**SD, prediction_type=kind)
    ddim, tcd = solver("ddim", scheduler), solver("tcd", scheduler, gamma=0.0, end="clean")
    times = [*GRIDS[steps], -1]
    torch.testing.assert_close(ours(tcd, scheduler, times, start()), ours(ddim, scheduler, times, start()))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_tcd_with_the_same_noise(handed, gamma, kind):
    scheduler, times = TCDScheduler(**SD, prediction_type=kind), GRIDS[4]
    built = solver("tcd", scheduler, gamma=gamma, seed=5)
    handed("scheduling_tcd", noise_of(built, times[1:]))
    expected = theirs(scheduler, times, start(), eta=gamma)
    assert (ours(built, scheduler, [*times, -1], start()) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", GRIDS)
def test_lcm_with_the_same_noise(handed, steps, kind):
    scheduler, times = LCMScheduler(**SD, prediction_type=kind), GRIDS[steps]
    built = solver("lcm", scheduler, seed=5)
    handed("scheduling_lcm", noise_of(built, times[1:]))
    expected = theirs(scheduler, times, start())
    assert (ours(built, scheduler, [*times, -1], start()) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_lcm_with_less_noise(handed, eta):
    """diffusers' scheduler, handed eta z + sqrt(1 - eta^2) epsilon as its noise. A short scaling, so that c_skip counts."""
    scheduler, times = LCMScheduler(**SD, timestep_scaling=1e-3), GRIDS[4]
    built = solver("lcm", scheduler, eta=eta, timestep_scaling=1e-3)
    fresh = noise_of(built, times[1:])
    scheduler.set_timesteps(timesteps=times)
    x = start()
    for index, t in enumerate(times):
        epsilon = output(x, torch.tensor(t), scheduler)
        handed("scheduling_lcm", [eta * fresh[min(index, 2)] + (1 - eta**2) ** 0.5 * epsilon])
        x = scheduler.step(epsilon, torch.tensor(t), x).prev_sample
    assert (ours(built, scheduler, [*times, -1], start()) - x).abs().max() < TOLERANCE


def noise_of(built, times):
    """What `built` adds on the way from `start()` to each of the times."""
    keys = keys_of(start(), built.seed)
    return [renoise(keys, times_of([t, t]), start()) for t in times]


MEAN, VARIANCE = 0.7, 0.3
PATHS = {"vp": DiscreteVP.from_betas(), "zero_snr": DiscreteVP.from_betas(zero_terminal_snr=True), "flow": RectifiedFlow()}


@pytest.mark.parametrize(
    ("name", "options"), [("lcm", {}), ("lcm", {"eta": 0.5}), ("tcd", {"gamma": 0.3}), ("tcd", {"gamma": 1.0})]
)
@pytest.mark.parametrize("where", PATHS)
def test_the_distribution(where, name, options):
    """Data N(m, v): every step is affine in x and in fresh noise, so mean and variance follow by hand."""
    path = PATHS[where]
    built, x = registry_of("solvers").build({"name": name, **options}, path), start(96, (4, 32, 32))

    def denoise(x, t):
        alpha, sigma = path.at(t, x)
        epsilon = sigma / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)
        x_0 = MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)
        return Prediction(alpha * epsilon - sigma * x_0, "v_prediction", x, alpha, sigma)

    mean, variance = 0.0, 1.0
    for t, s in pairwise([1.0, 0.75, 0.5, 0.25, 0.0]):
        s = max(s, built.end)
        (a, b), (a_s, b_s) = (tuple(map(float, path.alpha_sigma(time))) for time in (t, s))
        total = a * a * VARIANCE + b * b
        on_epsilon, on_x_0 = b / total, a * VARIANCE / total  # epsilon = on_epsilon (x - a m), x_0 = m + on_x_0 (x - a m)
        if name == "lcm":
            eta = options.get("eta", 1.0)
            kept, fresh = a_s * on_x_0 + b_s * (1 - eta**2) ** 0.5 * on_epsilon, b_s * eta
        else:
            step = path.step(s)
            u = path.time(int((1 - options["gamma"]) * step)) if step > 0 else s
            a_u, b_u = map(float, path.alpha_sigma(u))
            kept = a_s / a_u * (a_u * on_x_0 + b_u * on_epsilon)
            fresh = (b_s**2 - (a_s / a_u * b_u) ** 2) ** 0.5
        mean = a_s * MEAN + kept * (mean - a * MEAN)  # at x = a m, x_0 is m and epsilon 0
        variance = kept**2 * variance + fresh**2
    end = built.solve(denoise, x, times_of([999, 749, 499, 249, -1])).double()
    count = end.numel()
    assert abs(float(end.mean()) - mean) < 4 * (variance / count) ** 0.5
    assert abs(float(end.var()) / variance - 1) < 4 * (2 / count) ** 0.5
    assert (
        variance < 0.9 * VARIANCE or name == "tcd"
    )  # few steps of multistep consistency sampling by x_0 alone narrow the data


def test_the_noise_is_keyed():
    x = start(3)
    first, second = keys_of(x, 0), keys_of(x, 1)
    assert len(set(first.tolist() + second.tolist())) == 6 and torch.equal(first, keys_of(x.clone(), 0))
    assert torch.equal(keys_of(x[1:2], 0), first[1:2])  # whatever the batch
    assert not bool((keys_of(x.to(torch.bfloat16), 0) == first).any())
    s = times_of([749, 749, 499])
    noise = renoise(first, s, x)
    assert torch.equal(noise[1:2], renoise(first[1:2], s[1:2], x[1:2]))
    assert torch.equal(noise, renoise(first, s + 1e-12, x))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[2], renoise(first, times_of([749] * 3), x)[2])


def test_the_noise_is_normal():
    """Moments of a million numbers, neighbours and samples uncorrelated, and the share beyond two and three sigmas."""
    x = start(16, (4, 128, 128))
    z = renoise(keys_of(x, 0), times_of([499] * 16), x.double())
    count = z.numel()
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((z**power).mean()) - moment) < 4 * (spread / count) ** 0.5, power
    for other in (z.roll(1, -1), z.roll(1, -2), z.roll(1, 0), z.flip(-1)):
        assert abs(float((z * other).mean())) < 4 / count**0.5
    for beyond, share in ((2, 0.0455003), (3, 0.0026998)):
        assert abs(float((z.abs() > beyond).double().mean()) - share) < 4 * (share / count) ** 0.5


def test_the_mixing_is_splitmix64():
    """The generator's published outputs from seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64")."""
    states = 1234567 + GOLDEN * torch.arange(1, 6)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [value % 2**64 for value in mixed(states).tolist()] == expected


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_the_seed_changes_the_picture(name):
    scheduler, times = LCMScheduler(**SD), [*GRIDS[4], -1]
    a, b, c = (ours(solver(name, scheduler, seed=seed), scheduler, times, start()) for seed in (0, 0, 1))
    assert torch.equal(a, b) and float((a - c).abs().max()) > 0.1


@pytest.mark.parametrize(("name", "option"), [("lcm", "eta"), ("tcd", "gamma")])
def test_shares_outside_their_range_are_refused(name, option):
    with pytest.raises(ConfigError, match=rf"solver\.{option}"):
        registry_of("solvers").build({"name": name, option: 1.5}, DiscreteVP.from_betas())
