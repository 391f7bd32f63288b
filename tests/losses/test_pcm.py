"""`pcm` against the phases of arXiv 2405.18407 on the public recipe's points, computed again in numpy."""

import numpy as np
import pytest

from sunlab.losses.pcm import PCM

SEEDS = tuple(range(60))
TIMES = [999, 749, 499, 249, -1]


@pytest.mark.parametrize(("segments", "edges"), [(None, [739, 499, 239, 0]), (2, [499, 0]), (1, [0]), (3, [659, 319, 0])])
def test_the_formula(hand, segments, edges):
    c = np.linspace(-1, 1, len(SEEDS))
    student, teacher, batch = hand.Toy(0.8, c), hand.Toy(0.3, -c), hand.batch(SEEDS)
    flows = hand.flow(student, "ddim", TIMES), hand.flow(teacher, "ddim", TIMES)
    terms = hand.in_steps(PCM(segments=segments)(batch, *flows, hand.squared))
    points = np.arange(1, 51) * 20 - 1
    before = np.concatenate([[0], points[:-1]])
    phases = np.floor(np.linspace(0, 50, segments or 4, endpoint=False)).astype(int)
    noise = batch.draws.normal("noise", hand.SHAPE)
    for row, (t, s) in enumerate(zip(terms.t.tolist(), terms.s.tolist(), strict=True)):
        index = points.tolist().index(t)
        phase = phases[phases <= index].max()
        assert s == before[phase]
        a, b = hand.alpha_sigma(t)
        x = (a * batch.latents[row] + b * noise[row]).numpy()
        nearer = hand.ddim(teacher.numpy(row), x, [t, before[index]])
        at_the_edge = index == phase
        target = nearer if at_the_edge else hand.ddim(student.numpy(row), nearer, [before[index], s])
        jump = hand.ddim(student.numpy(row), x, [t, s])
        assert float(terms.values[row].detach()) == pytest.approx(((jump - target) ** 2).mean(), rel=1e-8)
    assert sorted(set(terms.s.tolist()), reverse=True) == edges
    assert [grad for *_, grad in student.asked] == [False, True] and len(teacher.asked) == 1
