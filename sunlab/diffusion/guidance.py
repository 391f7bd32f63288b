"""Denoisers bound to prompts: the guided teacher (NFE 2, in one batch) and the student (NFE 1)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sunlab.diffusion.prediction import Denoiser, Prediction, guide
from sunlab.types import Conditioning

Forward = Callable[..., Prediction]
"""A backbone: (x, t, conditioning, state of the pass) -> Prediction."""


@dataclass
class NetworkEvaluations:
    """Network evaluations (NFE), counted by sample: a guided evaluation of B samples is 2 B of them. `critic` are those of a
    loss's networks over the frozen base."""

    teacher: int = 0
    student: int = 0
    backward: int = 0
    critic: int = 0

    @property
    def equivalents(self) -> int:
        """Training compute in NFE: a backward pass counts as two."""
        return self.teacher + self.student + self.critic + 2 * self.backward


def guided(
    forward: Forward,
    positive: Conditioning,
    negative: Conditioning,
    w: Tensor,
    *,
    one_pass: bool = False,
    nfe: NetworkEvaluations | None = None,
) -> Denoiser:
    """Classifier-free guidance over the frozen base: both evaluations in one batch.

    Args:
        forward: the base.
        w: guidance scale of each sample (B,).
        one_pass: w is always 1, so the negative evaluation has no effect and is skipped.
        nfe: counts the evaluations.
    """
    both = Conditioning.cat([negative, positive])

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        n = len(x)
        if nfe is not None:
            nfe.teacher += n * (1 if one_pass else 2)
        if one_pass:
            return forward(x, t, positive)
        joint = forward(torch.cat([x, x]), torch.cat([t, t]), both)
        halves = [
            Prediction(joint.value[s], joint.kind, joint.x[s], joint.alpha[s], joint.sigma[s])
            for s in (slice(None, n), slice(n, None))
        ]
        return guide(halves[1], halves[0], w)

    return denoise
