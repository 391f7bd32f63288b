"""The metric "content_kept": whether a picture shows what the teacher's picture shows, by the lab's classifier."""

from functools import cache

import torch
from torch import Tensor

from sunlab.evaluation.base import METRICS, Metric
from sunlab.lab.classifier import WEIGHTS, Classifier, judge, load_classifier

ATTRIBUTES = ("emoji", "background", "size")


@METRICS.register("content_kept")
class ContentKept(Metric):
    """Share of pairs whose two pictures show the same emoji, background and size: all three, and each alone.

    The pictures are compared with each other, not with the prompt: what a prompt leaves open counts too.

    Args:
        classifier: a file of `tools/train_classifier.py`, which prints its own accuracy.
    """

    shares = True

    def __init__(self, *, classifier: str = WEIGHTS):
        self.classifier = classifier
        self._same: list[Tensor] = []

    def update(self, before: Tensor, after: Tensor) -> None:
        if before.shape != after.shape or before.ndim != 4:
            raise ValueError(f"expected pairs (B, 3, H, W), got {tuple(before.shape)} and {tuple(after.shape)}")
        network = _classifier(self.classifier)
        pairs = zip(judge(network, before), judge(network, after), strict=True)
        same = [[getattr(a, name) == getattr(b, name) for name in ATTRIBUTES] for a, b in pairs]
        self._same.append(torch.tensor(same, dtype=torch.float64).view(-1, len(ATTRIBUTES)))

    def compute(self) -> dict[str, float]:
        if not self._same or not sum(map(len, self._same)):
            raise ValueError("no pair of pictures was given")
        same = torch.cat(self._same)
        each = {f"{name}_kept": float(same[:, place].mean()) for place, name in enumerate(ATTRIBUTES)}
        return {"content_kept": float(same.prod(dim=1).mean()), **each}


@cache
def _classifier(file: str) -> Classifier:
    """One network for all comparisons of an evaluation."""
    return load_classifier(file)
