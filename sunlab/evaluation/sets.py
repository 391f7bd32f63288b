"""Metrics of two whole sets of features: the kernel distance, unbiased although pictures are drawn in pairs, and the Frechet
distance, which is called FID only for Inception's features."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_kernel

from sunlab.errors import ConfigError
from sunlab.evaluation.base import METRICS, Metric

LEAST = 2  # pairs


class SetMetric(Metric):
    """Keeps the features of both sets, row i of both from the same prompts and seed."""

    sees = "features"

    def __init__(self) -> None:
        self._before: list[Tensor] = []
        self._after: list[Tensor] = []

    def update(self, before: Tensor, after: Tensor) -> None:
        require_features(before, after)
        self._before.append(before)
        self._after.append(after)

    def compute(self) -> dict[str, float]:
        pairs = sum(map(len, self._before))
        if pairs < LEAST:
            raise ValueError(f"{type(self).__name__} of {pairs} pairs: at least {LEAST} are needed")
        return self.of(torch.cat(self._before).double(), torch.cat(self._after).double())

    @abstractmethod
    def of(self, before: Tensor, after: Tensor) -> dict[str, float]:
        """The values of two sets (N, D) float64, N >= 2."""


def require_features(before: Tensor, after: Tensor) -> None:
    """Raise `ValueError` unless both are features (B, D) of equal shape."""
    if before.shape != after.shape or before.ndim != 2:
        raise ValueError(f"expected pairs of features (B, D), got {tuple(before.shape)} and {tuple(after.shape)}")


def unbiased_mmd2(before: Tensor, after: Tensor) -> Tensor:
    """The U-statistic of the squared maximum mean discrepancy of paired sets, with KID's kernel (x·y / D + 1)^3.

    1 / (n (n - 1)) sum over i != j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i): the one-sample U-statistic of
    Gretton et al., A kernel two-sample test, JMLR 13 (2012), after Lemma 6 (eq. 4); the kernel is of Binkowski et al.,
    Demystifying MMD GANs, ICLR 2018, section 4. The terms k(x_i, y_i), which Lemma 6 itself and torchmetrics' `poly_mmd`
    take in, are left out: here x_i and y_i are pictures from the same seed, which resemble each other and would push the
    value below zero. It may be negative near zero, as an unbiased estimate must.

    Args:
        before, after: features (N, D), N >= 2, row i of both from the same prompts and seed.
    """
    x, y = before.double(), after.double()
    n = len(x)
    terms = poly_kernel(x, x) + poly_kernel(y, y) - poly_kernel(x, y) - poly_kernel(y, x)
    return (terms.sum() - terms.diagonal().sum()) / (n * (n - 1))


@METRICS.register("kid")
class KID(SetMetric):
    """Unbiased kernel distance (KID) between the features of the pictures before and after, times 1000."""

    def of(self, before: Tensor, after: Tensor) -> dict[str, float]:
        return {"kid_x1000": 1000 * float(unbiased_mmd2(before, after))}


ENOUGH = 2048  # pictures of each set


class Given(nn.Module):
    """Hands features on as they are: the extractor has seen the pictures already."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(before: Tensor, after: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017), covariances over N - 1.

    Args:
        before, after: features (N, D), equal N >= 2.
    """
    distance = FrechetInceptionDistance(feature=Given(before.shape[1])).set_dtype(torch.float64)
    distance.update(before.double(), real=True)
    distance.update(after.double(), real=False)
    return float(distance.compute())


def principal(features: Tensor, count: int) -> Tensor:
    """The first `count` principal components (D, count) of features (N, D)."""
    centred = features.double() - features.double().mean(0)
    return torch.linalg.svd(centred, full_matrices=False).Vh[:count].T


@METRICS.register("frechet")
class Frechet(SetMetric):
    """Frechet distance at equal N, over all features and in the first principal components of the set before.

    The components are fitted on the pictures before, which all rows of a table share, so they are the same for all rows.
    The distance is biased by N: only values of equal N compare, and subsets give no interval.

    Args:
        components: how many; fewer where there are fewer pairs than that.
        full: whether to give the one over all features too (an eigenvalue problem of their number).
    """

    splits = False

    def __init__(self, *, components: int = 64, full: bool = True):
        super().__init__()
        if components < 1:
            raise ConfigError(f"components of frechet is {components}: give at least 1")
        self.components, self.full = components, full

    def of(self, before: Tensor, after: Tensor) -> dict[str, float]:
        count = min(self.components, len(before) - 1, before.shape[1])
        axes = principal(before, count)
        values = {f"fd_{count}pc": frechet(before @ axes, after @ axes)}
        return {"fd": frechet(before, after), **values} if self.full else values

    def warnings(self, pairs: int) -> list[str]:
        found = []
        if pairs < ENOUGH:
            found.append(f"the Frechet distances are of N = {pairs}, below {ENOUGH}: strongly biased, for a smoke run only")
        width = self._before[0].shape[1] if self._before else 0
        if self.full and pairs <= width:
            found.append(
                f"N = {pairs} is below {width + 1}, the number of features and one: the covariances of the full Frechet "
                "distance are singular"
            )
        return found
