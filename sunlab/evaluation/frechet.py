"""Frechet distance between the Gaussians of two sets of features. It is called FID only for Inception's features."""

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from sunlab.errors import ConfigError
from sunlab.evaluation.base import METRICS
from sunlab.evaluation.sets import SetMetric

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
