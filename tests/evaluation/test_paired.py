"""Paired distances against their formulas, whatever the batches."""

import math

import pytest
import torch

from sunlab.evaluation.paired import PSNR, PairedL2


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(5, 3, 8, 6, generator=generator), torch.rand(5, 3, 8, 6, generator=generator)


def reference(before, after):
    errors = [float((b.double() - a.double()).pow(2).mean()) for b, a in zip(before, after, strict=True)]
    return {
        "paired_l2": sum(math.sqrt(e) for e in errors) / len(errors),
        "psnr": sum(10 * math.log10(1 / e) for e in errors) / len(errors),
    }


@pytest.mark.parametrize("kind", [PairedL2, PSNR])
@pytest.mark.parametrize("parts", [[5], [2, 3], [1, 1, 1, 1, 1]])
def test_is_the_mean_over_pairs(kind, parts, pairs):
    metric = kind()
    for before, after in zip(pairs[0].split(parts), pairs[1].split(parts), strict=True):
        metric.update(before, after)
    ((name, value),) = metric.compute().items()
    assert value == pytest.approx(reference(*pairs)[name], rel=1e-6)


def test_equal_pictures(pairs):
    for kind, value in ((PairedL2, 0.0), (PSNR, math.inf)):
        metric = kind()
        metric.update(pairs[0], pairs[0])
        assert list(metric.compute().values()) == [value]


@pytest.mark.parametrize("kind", [PairedL2, PSNR])
def test_refuses_nothing_and_unlike_pictures(kind, pairs):
    with pytest.raises(ValueError, match="no pair"):
        kind().compute()
    with pytest.raises(ValueError, match="expected pairs"):
        kind().update(pairs[0], pairs[1][:2])
