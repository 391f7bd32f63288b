"""Distances between sets against their definitions, written out or in closed form."""

import pytest
import torch

from sunlab.evaluation.paired import PairedFeatures
from sunlab.evaluation.sets import KID, Frechet, frechet, principal, unbiased_mmd2
from sunlab.evaluation.statistics import half_width, subsets_of


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(9, 4, generator=generator), torch.randn(9, 4, generator=generator) + 0.5


def test_kid_is_the_double_sum(features):
    x, y = (f.double().tolist() for f in features)

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, total = len(x), 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                total += kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i])
    metric = KID()
    for part in (slice(0, 2), slice(2, 9)):
        metric.update(features[0][part], features[1][part])
    assert metric.compute()["kid_x1000"] == pytest.approx(1000 * total / (n * (n - 1)), rel=1e-9)


def test_kid_of_pairs_that_resemble_each_other_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(300):  # two marginals that are equal, pairs nearly so: the truth is 0
        x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
        values.append(float(unbiased_mmd2(x, 0.95 * x + (1 - 0.95**2) ** 0.5 * torch.randn(x.shape, generator=generator))))
    mean = torch.tensor(values).mean()
    assert abs(mean) < 4 * torch.tensor(values).std() / 300**0.5


def test_frechet_of_gaussians_is_the_closed_form():
    # Samples whose mean and covariance (over N - 1) are exactly diagonal: the distance is a sum over axes.
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    white -= white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / 49)).T
    m1, s1 = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 0.5])
    m2, s2 = torch.tensor([1.0, 1.0, -1.0]), torch.tensor([0.5, 3.0, 0.5])
    closed = (m1 - m2).square().sum() + (s1 - s2).square().sum()
    assert frechet(m1 + s1 * white, m2 + s2 * white) == pytest.approx(float(closed), rel=1e-6)


def test_frechet_components_are_those_of_the_set_before(features):
    metric = Frechet(components=2)
    metric.update(*features)
    values = metric.compute()
    axes = principal(features[0], 2)
    assert values["fd_2pc"] == pytest.approx(frechet(features[0].double() @ axes, features[1].double() @ axes))
    torch.testing.assert_close(axes.T @ axes, torch.eye(2, dtype=torch.float64))
    smoke = metric.warnings(9)
    assert len(smoke) == 1 and "N = 9, below 2048" in smoke[0]
    assert "singular" in " ".join(metric.warnings(4))
    assert not metric.warnings(2048)


def test_paired_features_are_the_mean_of_distances(features):
    metric = PairedFeatures()
    metric.update(*features)
    lists = zip(*(f.tolist() for f in features), strict=True)
    direct = [sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5 for x, y in lists]
    assert metric.compute()["paired_features"] == pytest.approx(sum(direct) / 9, rel=1e-6)


@pytest.mark.parametrize("kind", [KID, Frechet])
def test_too_few_or_unequal_sets_are_refused(kind, features):
    with pytest.raises(ValueError, match="at least 2"):
        kind().compute()
    with pytest.raises(ValueError, match="pairs of features"):
        kind().update(features[0], features[1][:2])


def test_subsets_are_disjoint_and_cover():
    parts = subsets_of(50, 4)
    assert [i for part in parts for i in part] == list(range(50)) and len(parts) == 4
    assert len(subsets_of(17, 8)) == 2 and len(subsets_of(3, 8)) == 1
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5)
    assert half_width([1.0]) != half_width([1.0])  # NaN
