"""Rows beside their rivals, against sums written out."""

from dataclasses import dataclass

import pytest
import torch

from sunlab.evaluation.base import Metric
from sunlab.evaluation.side_by_side import HEADER, rows_of, table_of
from sunlab.evaluation.statistics import against, rival_of
from sunlab.pipelines.draw import Drawn


@dataclass
class Costs:
    nfe: float


def test_paired_statistics():
    own, rival = torch.tensor([0.1, 0.4, 0.2, 0.3]), torch.tensor([0.2, 0.2, 0.2, 0.5])
    found = against("rival", own, rival)
    differences = [-0.1, 0.2, 0.0, -0.2]
    mean = sum(differences) / 4
    variance = sum((d - mean) ** 2 for d in differences) / 3
    assert found.difference == pytest.approx(mean) and found.error == pytest.approx((variance / 4) ** 0.5)
    assert found.nearer == 2.5 / 4 and found.pairs == 4


def test_the_rival_has_the_same_nfe_or_the_next_larger():
    guided = [Costs(50), Costs(4), Costs(8)]
    assert rival_of(Costs(4), guided) is guided[1]
    assert rival_of(Costs(5), guided) is guided[2]
    assert rival_of(Costs(51), guided) is None


def test_side_by_side():
    torch.manual_seed(0)
    first = torch.rand(6, 3, 4, 4)
    near, far = (first + scale * torch.rand(6, 3, 4, 4) for scale in (0.1, 0.5))
    drawn = [
        Drawn(images, images, passes, seconds)
        for images, passes, seconds in ((first, 50, 1.0), (near, 4, 0.1), (far, 4, 0.2))
    ]
    rows = rows_of(["teacher", "ours", "few steps"], drawn, [True, False, True])
    expected = torch.stack([((a - b) ** 2).mean().sqrt() for a, b in zip(first, near, strict=True)])
    assert rows[1].distance == pytest.approx(float(expected.mean()), rel=1e-5)
    assert rows[1].error == pytest.approx(float(expected.std() / 6**0.5), rel=1e-4)
    assert rows[1].speedup == pytest.approx(10) and rows[0].against is None and rows[2].against is None
    assert rows[1].against.rival == "few steps" and rows[1].against.nearer == 1 and rows[1].against.difference < 0
    assert all(len(row.cells) == len(HEADER) for row in rows) and "nearer in 100%" in rows[1].cells[-1]
    assert table_of(rows) == (list(HEADER), [row.cells for row in rows])


class SameMean(Metric):
    """Share of pairs with the same mean, rounded."""

    def update(self, before, after):
        self.same = before.mean((1, 2, 3)).round(decimals=2) == after.mean((1, 2, 3)).round(decimals=2)

    def compute(self):
        return {"mean_kept": float(self.same.double().mean()), "other": 0.0}


def test_side_by_side_with_the_content():
    first = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    changed = torch.cat([first[:3], 1 + first[3:]])
    drawn = [Drawn(images, images, 4, 0.1) for images in (first, changed)]
    header, cells = table_of(rows_of(["teacher", "ours"], drawn, [True, False], SameMean))
    assert header[-1] == "mean kept" and [line[-1] for line in cells] == ["100%", "75%"]
