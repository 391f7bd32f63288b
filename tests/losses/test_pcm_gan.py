"""The adversarial part of `pcm` against its formula in numpy, on both paths; a short training of it."""

import csv
import math

import numpy as np
import pytest
import torch
from checkpoints import saved
from torch import nn

from sunlab.cli.main import main
from sunlab.diffusion.path import RectifiedFlow
from sunlab.diffusion.prediction import Prediction
from sunlab.errors import ConfigError
from sunlab.losses.base import BoundSampler
from sunlab.losses.pcm import PCM
from sunlab.registries import registry_of

SEEDS = tuple(range(16))
OWN = np.linspace(-1, 1, len(SEEDS))


class Flow:
    """u = tanh(a x + t + c) on rectified flow."""

    def __init__(self, a, c):
        self.a, self.c = a, torch.tensor(c).reshape(-1, 1, 1, 1)

    def __call__(self, x, t):
        t = t.reshape(-1, 1, 1, 1)
        return Prediction(torch.tanh(self.a * x + t + self.c), "flow", x, 1 - t, t)


class Seen:
    """The frozen network, whose hidden states are the state times 1 + t."""

    def features(self, x, t):
        self.x, self.t = x, t
        return (x * (1 + t.reshape(-1, 1, 1, 1))).flatten(2).mT


class Judge(nn.Module):
    """3 times the sum of the tokens' channels: logits on both sides of the hinge."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def forward(self, hidden):
        return self.weight * hidden.sum(2)


def setting(hand, path_):
    """Loss, batch, samplers and the marginal's alpha and sigma at a time in [0, 1]."""
    loss = PCM(gan=0.3)
    loss.discriminator = Judge()
    if path_ == "vp":
        path, flows, times = hand.PATH, (hand.Toy(0.8, OWN), hand.Toy(0.3, -OWN)), [1.0, 0.75, 0.5, 0.25, 0.0]
    else:
        path, flows, times = RectifiedFlow(), (Flow(0.8, OWN), Flow(0.3, -OWN)), [1.0, 0.75, 0.5, 0.25, 0.0]
    solver, grid, network = registry_of("solvers").build("ddim", path), torch.tensor(times, dtype=torch.float64), Seen()
    student, teacher = (BoundSampler(flow, solver, grid, network=network) for flow in flows)

    def marginal(t):
        return hand.alpha_sigma(round(1000 * t) - 1) if path_ == "vp" else (1 - t, t)

    return loss, hand.batch(SEEDS), student, teacher, marginal


@pytest.mark.parametrize("path_", ["vp", "flow"])
def test_the_formula(hand, path_):
    """x_s at the edge s, carried to tau in [s, beginning of the phase): mean alpha_tau / alpha_s x_s, and the variance that
    makes sigma_s^2 into sigma_tau^2; hinge losses of the tokens."""
    loss, batch, student, teacher, marginal = setting(hand, path_)
    pair, plain = loss.pair(batch, student, teacher), PCM()(batch, student, teacher, hand.squared)
    output, critic = loss(batch, student, teacher, hand.squared), loss.critic_step(batch, student, teacher)
    u, noises = (
        batch.draws.uniform("pcm time"),
        [batch.draws.normal(f"pcm {side}", hand.SHAPE) for side in ("false", "true")],
    )
    step = [0.001, 0.24, 0.5, 0.74, 1.0] if path_ == "vp" else [0.0, 0.24, 0.5, 0.74, 1.0]
    taus = []
    for row in range(len(SEEDS)):
        s = float(pair.s[row])
        phase = int(np.argmin(np.abs(np.array(step) - s)))
        assert s == pytest.approx(step[phase], abs=1e-9)
        tau = s + float(u[row]) * (step[phase + 1] - s)
        tau = math.floor(1000 * tau + 1e-6) / 1000 if path_ == "vp" else tau
        taus.append(tau)
        (a_s, b_s), (a, b) = marginal(s), marginal(tau)
        logits = []
        for x_s, noise in zip((pair.carried, pair.target), noises, strict=True):
            mean, variance = a / a_s * x_s[row].detach().numpy(), b**2 - (a / a_s * b_s) ** 2
            x = mean + math.sqrt(max(variance, 0)) * noise[row].numpy()
            logits.append(3 * (1 + tau) * x.sum(0).reshape(-1))
        false, true = logits
        fooled = np.maximum(0, 1 - false).mean()
        assert float(output.values[row].detach()) == pytest.approx(
            float(plain.values[row].detach()) + 0.3 * fooled, rel=1e-6
        )
        hinge = (np.maximum(0, 1 + false) + np.maximum(0, 1 - true)).mean()
        assert float(critic[row].detach()) == pytest.approx(hinge, rel=1e-6)
    assert min(taus) < 0.2 and max(taus) > 0.8
    torch.testing.assert_close(teacher.network.t, torch.tensor(taus, dtype=torch.float64))


def test_noise_from_an_edge_has_the_marginals_variance(hand):
    """Data noised to s and from there to t are distributed as data noised to t."""
    for path in (hand.PATH, RectifiedFlow(shift=3.0)):
        s, t = (torch.full((4000,), time, dtype=torch.float64) for time in (0.24, 0.5))
        first, second = torch.randn(2, 4000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x_0 = torch.full_like(first, 2.0)
        x_t = path.noise_further(path.add_noise(x_0, first, s), second, s, t).flatten()
        alpha, sigma = (float(each) for each in path.alpha_sigma(0.5))
        assert float(x_t.mean()) == pytest.approx(2 * alpha, abs=4 * sigma / 4000**0.5)
        assert float(x_t.std()) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("path_", ["vp", "flow"])
def test_the_student_is_drawn_to_what_the_discriminator_takes_for_the_target(hand, path_):
    """Gradients: the student's raise D of its state, the discriminator's weight alone is trained by `critic_step`."""
    loss, batch, student, teacher, _ = setting(hand, path_)
    x = torch.zeros(len(SEEDS), *hand.SHAPE, dtype=torch.float64, requires_grad=True)
    pair = loss.pair(batch, student, teacher)
    loss.discriminator(loss.hidden(batch, pair, x, "pcm false", student, teacher)).sum().backward()
    assert bool((x.grad > 0).any()) and bool((x.grad >= 0).all())
    quiet = BoundSampler(torch.no_grad()(student.denoise), student.solver, student.times, network=student.network)
    loss.critic_step(batch, quiet, teacher).sum().backward()
    assert loss.discriminator.weight.grad.abs() > 0


def test_without_it_there_is_no_network():
    assert PCM().networks() == [] and PCM(gan=0.0).discriminator is None
    with pytest.raises(ConfigError, match=r"loss\.gan"):
        PCM(gan=-0.1)


def test_two_steps_train_both(tiny_config, tmp_path):
    loss = "loss={name: pcm, gan: 0.1, critic_lr: 1.0e-3}"
    assert main(["fit", "--config", str(tiny_config), f"run.dir={tmp_path}", loss, "trainer.max_steps=2"]) == 0
    state = saved(tmp_path)
    student, critic = state["optimizer_states"][0]["optimizers"]
    for each in (student, critic):
        assert {int(s["step"]) for s in each["state"].values()} == {1}
    assert any(name.startswith("loss.discriminator.") for name in state["state_dict"]) and state["nfe"]["critic"] > 0
    rows = csv.DictReader((tmp_path / "tiny" / "csv" / "metrics.csv").read_text().splitlines())
    logged = {name for row in rows for name, value in row.items() if value}
    assert {"loss", "critic_loss", "pcm gan"} <= logged, logged


def test_prompts_alone_do_not_suffice(hand):
    loss, _, student, teacher, _ = setting(hand, "flow")
    with pytest.raises(ConfigError, match="needs images or latents"):
        loss.critic_step(hand.batch(SEEDS, latents=False), student, teacher)
