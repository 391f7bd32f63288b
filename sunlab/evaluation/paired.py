"""Distances between the two pictures of each pair, in pixels and in features."""

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from sunlab.evaluation.base import METRICS, Metric
from sunlab.evaluation.sets import require_features


class Paired(Metric):
    """The mean over pairs of a value of each pair (B,), in float64, so that the batch size does not show."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []

    def each(self) -> Tensor:
        if not self._values:
            raise ValueError("no pair of pictures was given")
        return torch.cat(self._values)

    def _value(self) -> float:
        return float(self.each().mean())


def pixel_distances(before: Tensor, after: Tensor) -> Tensor:
    """Root mean square difference (B,) of pairs of pictures (B, 3, H, W). Raises `ValueError` for unequal shapes."""
    _require_alike(before, after)
    return (before.double() - after.double()).square().flatten(1).mean(dim=1).sqrt()


def _require_alike(before: Tensor, after: Tensor) -> None:
    if before.shape != after.shape or before.ndim != 4 or before.shape[1] != 3:
        raise ValueError(f"expected pairs (B, 3, H, W), got {tuple(before.shape)} and {tuple(after.shape)}")


@METRICS.register("paired_l2")
class PairedL2(Paired):
    """Root mean square difference of each pair's pixels, in [0, 1], averaged over pairs."""

    paired = True

    def update(self, before: Tensor, after: Tensor) -> None:
        self._values.append(pixel_distances(before, after))

    def compute(self) -> dict[str, float]:
        return {"paired_l2": self._value()}


@METRICS.register("psnr")
class PSNR(Paired):
    """Peak signal-to-noise ratio of each pair in dB, averaged over pairs; equal pictures make it infinite."""

    def update(self, before: Tensor, after: Tensor) -> None:
        _require_alike(before, after)
        values = peak_signal_noise_ratio(after.double(), before.double(), data_range=1.0, dim=(1, 2, 3), reduction="none")
        self._values.append(values)

    def compute(self) -> dict[str, float]:
        return {"psnr": self._value()}


@METRICS.register("paired_features")
class PairedFeatures(Paired):
    """Euclidean distance between each pair's features, averaged over pairs."""

    sees, paired = "features", True

    def update(self, before: Tensor, after: Tensor) -> None:
        require_features(before, after)
        self._values.append((before.double() - after.double()).norm(dim=1))

    def compute(self) -> dict[str, float]:
        return {"paired_features": self._value()}
