"""The limit that the step-reducing losses share: where data are a closed-form Gaussian and the student is the exact flow
map, what is left is the error of the teacher's solver, and it falls with the order of that solver."""

import numpy as np
import pytest
import torch

from sunlab.diffusion.prediction import Prediction
from sunlab.losses.base import BoundSampler
from sunlab.losses.pcm import phase_edges
from sunlab.registries import registry_of
from sunlab.types import Trajectory

MEAN, VARIANCE = 0.7, 0.3
SEEDS = tuple(range(192))


class Gaussian:
    """Data x_0 ~ N(m, v): the exact denoiser, and the flow map x_s = alpha_s m + (d_s / d_t) (x_t - alpha_t m) with
    d^2 = alpha^2 v + sigma^2."""

    def __init__(self, path):
        self.path = path

    def deviation(self, t, x):
        alpha, sigma = self.path.at(t, x)
        return alpha, sigma, (alpha**2 * VARIANCE + sigma**2).sqrt()

    def map(self, x, t, s):
        (alpha, _, d), (alpha_s, _, d_s) = self.deviation(t, x), self.deviation(s, x)
        return alpha_s * MEAN + d_s / d * (x - alpha * MEAN)

    def __call__(self, x, t):
        alpha, sigma, d = self.deviation(t, x)
        return Prediction(sigma / d**2 * (x - alpha * MEAN), "epsilon", x, alpha, sigma)


class ExactStudent(Gaussian):
    """Predicts what makes one DDIM step to the next of `edges` the exact flow map."""

    def __init__(self, path, edges):
        super().__init__(path)
        self.edges = edges

    def __call__(self, x, t):
        s = self.edges[(self.edges[None, :] > t[:, None] - 1e-9).sum(1)]
        (alpha, sigma), (alpha_s, sigma_s) = self.path.at(t, x), self.path.at(s, x)
        arrived = self.map(x, t, s)
        epsilon = (arrived - alpha_s / alpha * x) / (sigma_s - alpha_s / alpha * sigma)
        return Prediction(epsilon, "epsilon", x, alpha, sigma)


def measure(hand, request, solver, *, edges, teacher_times, trajectory=None):
    """The values' root, so that it falls as the error does, of those away from the clean end: there one step of the schedule
    is not small, however many there are."""
    student = BoundSampler(
        ExactStudent(hand.PATH, hand.times_of(edges)), registry_of("solvers").build("ddim", hand.PATH), hand.times_of(edges)
    )
    teacher = BoundSampler(
        Gaussian(hand.PATH), registry_of("solvers").build(solver, hand.PATH), hand.times_of(teacher_times)
    )
    batch = hand.batch(SEEDS, trajectory=trajectory)
    terms = registry_of("losses").build(request)(batch, student, teacher, hand.squared)
    return float(terms.values[terms.t >= 0.3].mean().sqrt())


def slope(sizes, errors):
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


GRID = [900, 700, 500, 300]
STEP = {"ddim": 2, "heun": 3}  # the error of a single step, of its length
WHOLE = {"ddim": 1, "dpmpp_2m": 2, "heun": 2}  # of many, of their length


@pytest.mark.parametrize("solver", STEP)
@pytest.mark.parametrize(
    ("request_", "edges"),
    [
        ({"name": "msc_segment"}, GRID),
        ({"name": "msc_segment", "segments": 1}, [999, -1]),
        ({"name": "lcm"}, [999, -1]),
        ({"name": "lcm", "boundary": "none"}, [999, -1]),
        ({"name": "pcm", "segments": 1}, [999, 0]),
        ({"name": "pcm", "segments": 3}, None),
    ],
    ids=str,
)
def test_losses_of_a_single_teacher_step(hand, request_, edges, solver):
    """Over k: the order of one step is one more than that of the solver."""
    skips, errors = (10, 20, 40), []
    for skip in skips:
        there = edges or phase_edges(range(999, 0, -skip), request_["segments"])
        errors.append(measure(hand, {**request_, "skip": skip}, solver, edges=there, teacher_times=[999, -1]))
    assert slope(skips, errors) == pytest.approx(STEP[solver], abs=0.3), errors
    assert errors[0] < 0.02


@pytest.mark.parametrize("solver", WHOLE)
@pytest.mark.parametrize("through", [1, None])
def test_rollouts(hand, solver, through):
    """Over the length of the teacher's step on its own grid."""
    lengths, errors = (10, 20, 40, 100), []
    for length in lengths:
        fine = list(range(900, 299, -length))
        errors.append(measure(hand, {"name": "msc_rollout", "through": through}, solver, edges=GRID, teacher_times=fine))
    assert slope(lengths, errors) == pytest.approx(WHOLE[solver], abs=0.3), errors


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_progressive(hand, solver):
    """Over the length of the student's step: a single step's error, over the length by which x_0 counts in it."""
    lengths, errors = (20, 40, 100), []
    for length in lengths:
        edges = list(range(900, 299, -length))
        errors.append(measure(hand, "progressive", solver, edges=edges, teacher_times=edges))
    assert slope(lengths, errors) == pytest.approx(WHOLE[solver], abs=0.3), errors


@pytest.mark.parametrize("solver", WHOLE)
@pytest.mark.parametrize("target", ["segment", "end"])
def test_trajectories(hand, solver, target):
    """Over the length of the step with which the trajectories were made."""
    exact, lengths, errors = Gaussian(hand.PATH), (10, 20, 50), []
    noise = hand.batch(SEEDS).draws.normal("noise", hand.SHAPE)
    start = exact.map(noise, *(hand.times_of([step] * len(SEEDS)) for step in (999, 900)))
    for length in lengths:
        fine = list(range(900, 299, -length))
        states = [start, *registry_of("solvers").build(solver, hand.PATH).states(exact, start, hand.times_of(fine))]
        kept = [fine.index(t) for t in GRID]
        stored = Trajectory(torch.stack([states[i] for i in kept], 1), hand.times_of(GRID))
        edges = GRID if target == "segment" else [900, 300]
        request = {"name": "trajectory", "target": target}
        errors.append(measure(hand, request, solver, edges=edges, teacher_times=GRID, trajectory=stored))
    assert slope(lengths, errors) == pytest.approx(WHOLE[solver], abs=0.3), errors
