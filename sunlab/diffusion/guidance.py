"""Denoisers bound to prompts: the guided teacher (two passes in one batch) and the one-pass student."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sunlab.diffusion.prediction import Prediction, guide
from sunlab.types import Conditioning, Denoiser

Forward = Callable[..., Prediction]
"""A backbone: (x, t, conditioning, adapter inputs) -> Prediction."""


@dataclass
class NetworkEvaluations:
    """U-Net passes counted by sample: a guided evaluation of B samples is 2 B passes."""

    teacher: int = 0
    student: int = 0
    backward: int = 0

    @property
    def equivalents(self) -> int:
        """Pass-equivalents of training compute: a backward pass costs two forward ones."""
        return self.teacher + self.student + 2 * self.backward


def guided(
    forward: Forward, positive: Conditioning, negative: Conditioning, w: Tensor, *, nfe: NetworkEvaluations | None = None
) -> Denoiser:
    """Classifier-free guidance over the frozen base: both passes in one batch. Where w is 1 for all samples the negative
    pass has no effect and is left out."""
    both = Conditioning.cat([negative, positive])
    one_pass = bool((w == 1).all())

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        if nfe is not None:
            nfe.teacher += len(x) * (1 if one_pass else 2)
        if one_pass:
            return forward(x, t, positive)
        joint = forward(torch.cat([x, x]), torch.cat([t, t]), both)
        n = len(x)
        halves = [
            Prediction(joint.value[s], joint.kind, joint.x[s], joint.alpha[s], joint.sigma[s])
            for s in (slice(None, n), slice(n, None))
        ]
        return guide(halves[1], halves[0], w)

    return denoise
