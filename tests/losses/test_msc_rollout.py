"""`msc_rollout` against its formula, computed again in numpy."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from sunlab.errors import ConfigError
from sunlab.losses.msc_rollout import MSCRollout

SEEDS = tuple(range(6))
TIMES = [999, 749, 499, 249, -1]
FINE = [999, 874, 749, 624, 499, 374, 249, 124, -1]
C = np.linspace(-1, 1, len(SEEDS))


def compute(hand, loss, *, fine=FINE, solver="ddim", trajectory=None, weight=0.8):
    student, teacher = hand.Toy(weight, C), hand.Toy(0.3, -C)
    batch = hand.batch(SEEDS, latents=False, trajectory=trajectory)
    flows = hand.flow(student, "ddim", TIMES), hand.flow(teacher, solver, fine)
    return hand.in_steps(loss(batch, *flows, hand.squared)), batch, student, teacher


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_the_formula_with_the_live_teacher(hand, solver):
    terms, batch, student, teacher = compute(hand, MSCRollout(), solver=solver)
    noise, parts = batch.draws.normal("noise", hand.SHAPE).numpy(), np.zeros((len(SEEDS), 4))
    for row in range(len(SEEDS)):
        for index in range(1, 5):
            ours = hand.ddim(student.numpy(row), noise[row], TIMES[: index + 1])
            theirs = getattr(hand, solver)(teacher.numpy(row), noise[row], FINE[: 2 * index + 1])
            parts[row, index - 1] = ((ours - theirs) ** 2).mean()
    torch.testing.assert_close(terms.values.detach(), torch.from_numpy(parts.mean(1)), rtol=1e-8, atol=0)
    logged = [float(value) for value in terms.logs.values()]
    assert logged == pytest.approx(parts.mean(0).tolist()) and list(terms.logs)[-1] == "loss at t=0"
    assert set(terms.t.tolist()) == {999} and set(terms.s.tolist()) == {-1}
    assert len(teacher.asked) == 8 and not any(grad for *_, grad in teacher.asked)
    assert len(student.asked) == 4 and all(grad for *_, grad in student.asked)


def test_a_stored_trajectory_gives_noise_and_targets(hand):
    stored = hand.trajectory(SEEDS, FINE)
    terms, _, student, teacher = compute(hand, MSCRollout(), trajectory=stored)
    assert not teacher.asked
    for row in range(len(SEEDS)):
        parts = []
        for index in range(1, 5):
            ours = hand.ddim(student.numpy(row), stored.states[row, 0].numpy(), TIMES[: index + 1])
            parts.append(((ours - stored.states[row, 2 * index].numpy()) ** 2).mean())
        assert float(terms.values[row].detach()) == pytest.approx(np.mean(parts), rel=1e-8)


@pytest.mark.parametrize("through", [1, 2, 3, None])
def test_how_far_gradients_flow(hand, through):
    """By differences in the weight of the jumps since the last cut, the state at the cut held."""
    terms, batch, student, teacher = compute(hand, MSCRollout(through=through))
    terms.values.sum().backward()
    noise = batch.draws.normal("noise", hand.SHAPE).numpy()

    def total(weight):
        moved, value = hand.Toy(weight, C), 0.0
        for row in range(len(SEEDS)):
            held = x = noise[row]
            for index, (t, s) in enumerate(pairwise(TIMES)):
                if through is not None and index % through == 0:
                    x = held
                x = hand.ddim(moved.numpy(row), x, [t, s])
                held = hand.ddim(student.numpy(row), held, [t, s])
                theirs = hand.ddim(teacher.numpy(row), noise[row], FINE[: 2 * index + 3])
                value += ((x - theirs) ** 2).mean() / 4
        return value

    assert float(student.a.grad) == pytest.approx((total(0.8 + 1e-5) - total(0.8 - 1e-5)) / 2e-5, rel=1e-6)


def test_what_is_wrong_is_named(hand):
    with pytest.raises(ConfigError, match=r"loss\.through.*got 0"):
        MSCRollout(through=0)
    with pytest.raises(ConfigError, match=r"teacher\.steps.*\[0\.75, 0\.5, 0\.25\]"):
        compute(hand, MSCRollout(), fine=[999, 666, 333, -1])
    with pytest.raises(ConfigError, match="no state at"):
        compute(hand, MSCRollout(), trajectory=hand.trajectory(SEEDS, [999, 499, -1]))
