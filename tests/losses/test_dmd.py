"""`dmd` where data and student are Gaussians: scores, the gradient and the critic's limit in closed form."""

import numpy as np
import pytest
import torch
from torch import nn

from sunlab.diffusion.guidance import NetworkEvaluations
from sunlab.diffusion.path import RectifiedFlow
from sunlab.diffusion.prediction import Prediction
from sunlab.draws import Draws
from sunlab.errors import ConfigError
from sunlab.losses.base import BoundSampler
from sunlab.losses.dmd import DMD
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.student import StudentModule
from sunlab.registries import registry_of
from sunlab.testing.toy_backbone import toy_base
from sunlab.types import Batch, Conditioning, Samples

SHAPE = (1, 1, 1)
REAL, FAKE = (0.4, 0.2), (-0.5, 0.6)  # mean and variance


def score(path, x, t, mean, variance):
    """Of alpha x_0 + sigma epsilon, x_0 ~ N(mean, variance)."""
    alpha, sigma = path.at(t, x)
    return -(x - alpha * mean) / (alpha**2 * variance + sigma**2)


class Gaussian:
    """A denoiser by Tweedie's formula, epsilon = -sigma score; also the network of a loss, whatever the adapter."""

    def __init__(self, path, mean, variance):
        self.path, self.mean, self.variance = path, mean, variance

    def __call__(self, x, t, adapter=None, *, guided=False):
        alpha, sigma = self.path.at(t, x)
        return Prediction(-sigma * score(self.path, x, t, self.mean, self.variance), "epsilon", x, alpha, sigma)


class Sampler(nn.Module):
    """A student that jumps to x_0 = mean + deviation z, z its noise: N(mean, variance)."""

    def __init__(self, path, mean, variance):
        super().__init__()
        self.path, self.mean, self.deviation = path, nn.Parameter(torch.tensor(mean).double()), variance**0.5

    def forward(self, x, t):
        alpha, sigma = self.path.at(t, x)
        return Prediction(self.mean + self.deviation * x, "sample", x, alpha, sigma)


def bound(path, student, teacher, network):
    solver, times = registry_of("solvers").build("ddim", path), torch.tensor([1.0, 0.0], dtype=torch.float64)
    return BoundSampler(student, solver, times), BoundSampler(teacher, solver, times, network=network)


def batch_of(seeds, latents=None):
    draws = Draws(list(seeds), dtype=torch.float64)
    tokens = Conditioning(torch.zeros(len(draws.seeds), 1, 1))
    return Batch(tokens, tokens, torch.ones(len(draws.seeds)), draws, SHAPE, latents)


def squared(a, b):
    return (a - b).square().flatten(1).mean(1)


@pytest.mark.parametrize("path_", ["vp", "flow"])
def test_the_gradient_is_the_difference_of_the_scores(hand, path_):
    """arXiv 2311.18828, equations 7 and 8: w (s_fake - s_real), w = sigma^2 / alpha / mean |x_0 - mu_real|."""
    path = hand.PATH if path_ == "vp" else RectifiedFlow(shift=2.0)
    student = Sampler(path, *FAKE)
    batch = batch_of(range(16))
    loss = DMD()
    output = loss(batch, *bound(path, student, Gaussian(path, *REAL), Gaussian(path, *FAKE)), squared)
    (found,) = torch.autograd.grad(output.values.sum(), student.mean)
    x_0 = FAKE[0] + FAKE[1] ** 0.5 * batch.draws.normal("noise", SHAPE)
    u = 0.02 + 0.96 * batch.draws.uniform("dmd time")
    tau = (1000 * u).round() / 1000 if path_ == "vp" else 2 * u / (1 + u)
    alpha, sigma = (part.numpy() for part in path.at(tau, x_0))
    x = alpha * x_0.numpy() + sigma * batch.draws.normal("dmd noise", SHAPE).numpy()
    s_real, s_fake = (-(x - alpha * m) / (alpha**2 * v + sigma**2) for m, v in (REAL, FAKE))
    mu_real = (x + sigma**2 * s_real) / alpha
    wanted = sigma**2 / alpha / np.abs(x_0.numpy() - mu_real) * (s_fake - s_real)
    assert float(found) == pytest.approx(wanted.sum(), rel=1e-9)
    assert np.allclose(output.values.detach().numpy(), 0.5 * wanted.reshape(-1) ** 2)


def test_it_vanishes_at_the_teachers_distribution(hand):
    student = Sampler(hand.PATH, *REAL)
    flows = bound(hand.PATH, student, Gaussian(hand.PATH, *REAL), Gaussian(hand.PATH, *REAL))
    output = DMD()(batch_of(range(8)), *flows, squared)
    (gradient,) = torch.autograd.grad(output.values.sum(), student.mean)
    assert not output.values.any() and not gradient


def test_descending_it_reaches_the_teachers_mean(hand):
    """With the exact fake score of each student."""
    student = Sampler(hand.PATH, *FAKE)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    for step in range(80):
        network = Gaussian(hand.PATH, float(student.mean.detach()), REAL[1])
        student.deviation = REAL[1] ** 0.5
        flows = bound(hand.PATH, student, Gaussian(hand.PATH, *REAL), network)
        output = DMD()(batch_of(range(16 * step, 16 * step + 16)), *flows, squared)
        optimizer.zero_grad()
        output.values.mean().backward()
        optimizer.step()
    assert float(student.mean.detach()) == pytest.approx(REAL[0], abs=0.06)


class Learnt(nn.Module):
    """A network of a loss: epsilon = a(t) x + b(t), polynomials of alpha and sigma."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 2)).double()

    def forward(self, x, t, adapter=None, *, guided=False):
        alpha, sigma = self.path.at(t, x)
        a, b = self.layers(torch.cat([alpha, sigma], 1).flatten(1)).T
        return Prediction(a.view(-1, 1, 1, 1) * x + b.view(-1, 1, 1, 1), "epsilon", x, alpha, sigma)


def test_the_critic_converges_to_the_score_of_the_student(hand):
    torch.manual_seed(0)
    network, loss = Learnt(hand.PATH), DMD()
    student = Sampler(hand.PATH, *FAKE).requires_grad_(False)
    flows = bound(hand.PATH, student, Gaussian(hand.PATH, *REAL), network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 160)
    for step in range(160):
        optimizer.zero_grad()
        loss.critic_step(batch_of(range(64 * step, 64 * step + 64)), *flows).mean().backward()
        optimizer.step()
        schedule.step()
    t, x = torch.tensor([0.15, 0.4, 0.7, 0.9]).double().repeat(2), torch.tensor([-1.0, 1.0]).double().repeat_interleave(4)
    x = x.reshape(-1, 1, 1, 1)
    _, sigma = hand.PATH.at(t, x)
    found = -network(x, t).value / sigma
    wanted = score(hand.PATH, x, t, *FAKE)
    assert (found - wanted).abs().max() < 0.25, (found - wanted).flatten()


STUDENTS = ["sun", "lora", "sun_lora", "copy"]


def module_of(base, kind, loss):
    options = {"guidance": (3.0, 3.0)}
    if kind == "copy":
        return StudentModule(base, loss, **options)
    return AdapterModule(base, registry_of("adapters").build(kind), loss, **options)


@pytest.fixture(params=["toy", "unet"])
def base(request):
    return toy_base() if request.param == "toy" else request.getfixturevalue("tiny_base")


@pytest.mark.parametrize("kind", STUDENTS)
def test_one_network_in_three_states(base, kind):
    """What a turn trains has gradients and nothing else has; the teacher stays the base to the bit; no second network."""
    single = sum(p.numel() for p in base.backbone.parameters())
    loss = DMD(fake={"name": "lora", "rank": 4}, gan=0.1, negatives=True)
    module = module_of(base, kind, loss)
    seeds = range(2)
    shape = base.backbone.sample_shape
    samples = Samples(("a", "b"), ("a cat", "two dogs"), ("blue", ""), tuple(seeds), latents=torch.randn(2, *shape))
    batch = module.encode(samples)
    x, t = torch.randn(2, *shape), torch.full((2,), 0.7, dtype=torch.float64)
    plain = base.backbone(x, t, batch.positive).value
    with torch.no_grad():
        for update in loss.fake.updates.values():
            update.lora_B.weight.normal_(std=0.1)
        network = module.teacher_sampler(batch).network
        assert torch.equal(base.backbone(x, t, batch.positive).value, plain)
        fake, student = network(x, t, loss.fake).value, module.predict_student(x, t, batch).value
        assert not torch.allclose(fake, plain, atol=1e-4) and not torch.equal(fake, student)
    critics, trained = module.turns.parameters(), list(module.trainable().values())
    module.log = lambda *args, **more: None
    module.turns.take(0)
    module.critic_step(samples, batch)["loss"].backward()
    assert all(p.grad is not None for p in critics) and all(p.grad is None for p in trained)
    module.zero_grad()
    module.turns.take(loss.critic_steps)
    module.student_step(samples, batch)["loss"].backward()
    assert all(p.grad is None for p in critics) and any(p.grad is not None and p.grad.any() for p in trained)
    assert all(p.grad is None for p in base.backbone.parameters())
    whole = sum({p.data_ptr(): p.numel() for p in module.backbone.parameters()}.values())
    assert whole == single
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in module.parameters()}
    rest = {p.untyped_storage().data_ptr() for p in (*base.backbone.parameters(), *base.text.model.parameters())}
    own = {p.untyped_storage().data_ptr() for p in (*trained, *critics)}
    assert held.keys() == rest | own
    layers = base.backbone.layers()
    weights = [layers[name.replace("/", ".")].weight for name in loss.fake.updates]
    ranked = sum(4 * (weight[0].numel() + len(weight)) for weight in weights)  # rank 4
    width, hidden = loss.width, base.backbone.middle()[1]
    head = 2 * hidden + width * (hidden + 1) + width + 1
    assert sum(p.numel() for p in critics) == ranked + head
    text, learnt = (sum(p.numel() for p in part) for part in (base.text.model.parameters(), trained))
    assert sum(held.values()) == 4 * (single + text + learnt + ranked + head)


def test_evaluations_are_counted():
    nfe = NetworkEvaluations(teacher=2, student=1, backward=1, critic=3)
    assert nfe.equivalents == 8
    module = module_of(toy_base(), "sun", DMD(negatives=True))
    samples = Samples(("a",), ("a cat",), ("blue",), (0,))
    module.log = lambda *args, **more: None
    module.critic_step(samples, module.encode(samples))
    assert (module.nfe.critic, module.nfe.backward, module.nfe.teacher) == (2, 2, 0)


def test_what_is_wrong_is_named(hand):
    with pytest.raises(ConfigError, match=r"loss\.fake"):
        DMD(fake="sun")
    with pytest.raises(ConfigError, match="low"):
        DMD(low=0.5, high=0.1)
    loss = DMD(gan=0.1)
    loss.discriminator = nn.Identity()
    flows = bound(hand.PATH, Sampler(hand.PATH, *FAKE), Gaussian(hand.PATH, *REAL), Gaussian(hand.PATH, *FAKE))
    with pytest.raises(ConfigError, match=r"loss\.gan"):
        loss(batch_of(range(2)), *flows, squared)
    alone = BoundSampler(flows[1].denoise, flows[1].solver, flows[1].times)
    with pytest.raises(ConfigError, match="network"):
        DMD()(batch_of(range(2)), flows[0], alone, squared)
