"""`msc_segment` against its formula, computed again in numpy."""

import numpy as np
import pytest
import torch

from sunlab.errors import ConfigError
from sunlab.losses.lcm import LCM
from sunlab.losses.msc_segment import MSCSegment

SEEDS = tuple(range(24))
SEGMENTS = {1: [999, -1], 2: [999, 499, -1], 4: [999, 749, 499, 249, -1]}


def compute(hand, loss, **given):
    c = np.linspace(-1, 1, len(SEEDS))
    student, teacher = hand.Toy(0.8, c), hand.Toy(0.3, -c)
    batch = hand.batch(SEEDS, **given)
    flows = hand.flow(student, "ddim", SEGMENTS[4]), hand.flow(teacher, "ddim", SEGMENTS[4])
    return hand.in_steps(loss(batch, *flows, hand.squared)), batch, student, teacher


@pytest.mark.parametrize("skip", [7, 20, 500])
@pytest.mark.parametrize("segments", [None, 1, 2])
def test_the_formula(hand, segments, skip):
    terms, batch, student, teacher = compute(hand, MSCSegment(segments=segments, skip=skip))
    grid, noise = SEGMENTS[segments or 4], batch.draws.normal("noise", hand.SHAPE)
    for row, (t, s) in enumerate(zip(terms.t.tolist(), terms.s.tolist(), strict=True)):
        start = grid[grid.index(s) - 1]
        assert s < t <= start and (start - t) % skip == 0
        a, b = hand.alpha_sigma(t)
        x = noise[row] if t == 999 else a * batch.latents[row] + b * noise[row]
        u = max(t - skip, s)
        nearer = hand.ddim(teacher.numpy(row), x.numpy(), [t, u])
        target = nearer if u == s else hand.ddim(student.numpy(row), nearer, [u, s])
        jump = hand.ddim(student.numpy(row), x.numpy(), [t, s])
        assert float(terms.values[row].detach()) == pytest.approx(((jump - target) ** 2).mean(), rel=1e-8)
    assert len(teacher.asked) == 1 and not teacher.asked[0][2]
    assert [grad for *_, grad in student.asked] == [False, True]  # the target without gradient, then the student
    assert not any(bool((t == -1).any()) for _, t, _ in student.asked)


def test_the_gradient_is_the_online_students_alone(hand):
    """By differences of the formula in the weight of f(x_t, t), the target's held."""
    terms, _, student, teacher = compute(hand, MSCSegment(segments=2))
    terms.values.sum().backward()
    x, t, _ = student.asked[-1]

    def total(weight):
        moved, value = hand.Toy(weight, student.c), 0.0
        for row, (time, s) in enumerate(zip(t.tolist(), terms.s.tolist(), strict=True)):
            u = max(time - 20, s)
            nearer = hand.ddim(teacher.numpy(row), x[row].numpy(), [time, u])
            target = nearer if u == s else hand.ddim(student.numpy(row), nearer, [u, s])
            value += ((hand.ddim(moved.numpy(row), x[row].numpy(), [time, s]) - target) ** 2).mean()
        return value

    assert float(student.a.grad) == pytest.approx((total(0.8 + 1e-5) - total(0.8 - 1e-5)) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("skip", [1, 20, 33])
def test_one_segment_is_lcm_without_its_boundary(hand, skip):
    ours = compute(hand, MSCSegment(segments=1, skip=skip))[0]
    lcm = compute(hand, LCM(skip=skip, boundary="none"))[0]
    assert torch.equal(ours.t, lcm.t) and torch.equal(ours.s, lcm.s)
    torch.testing.assert_close(ours.values, lcm.values, atol=1e-12, rtol=1e-12)


def test_states_of_finer_trajectories(hand):
    """t is one of the stored times, x_t the stored state; the teacher's step is live."""
    fine = [*range(999, -1, -50), -1]
    stored = hand.trajectory(SEEDS, fine)
    terms, _, student, teacher = compute(hand, MSCSegment(states="teacher", skip=30), trajectory=stored, latents=False)
    x, t, _ = student.asked[-1]
    assert set(t.tolist()) <= set(fine[:-1]) and len(set(t.tolist())) > 5
    for row, (time, s) in enumerate(zip(t.tolist(), terms.s.tolist(), strict=True)):
        assert torch.equal(x[row], stored.states[row, fine.index(time)])
        assert s == max(edge for edge in SEGMENTS[4] if edge < time)
        u = max(time - 30, s)
        nearer = hand.ddim(teacher.numpy(row), x[row].numpy(), [time, u])
        target = nearer if u == s else hand.ddim(student.numpy(row), nearer, [u, s])
        jump = hand.ddim(student.numpy(row), x[row].numpy(), [time, s])
        assert float(terms.values[row].detach()) == pytest.approx(((jump - target) ** 2).mean(), rel=1e-8)


def test_what_is_wrong_is_named(hand):
    with pytest.raises(ConfigError, match=r"loss\.skip.*got 0"):
        MSCSegment(skip=0)
    with pytest.raises(ConfigError, match="sunlab data trajectories"):
        compute(hand, MSCSegment(states="teacher"))
