"""The frozen network as the networks of a loss use it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sunlab.diffusion.guidance import NetworkEvaluations, guided
from sunlab.diffusion.prediction import Prediction
from sunlab.types import Batch


@dataclass(frozen=True)
class FrozenNetwork:
    """The frozen network, bound to a batch's prompts; see `sunlab.losses.base.Network`.

    Attributes:
        backbone: the network.
        batch: whose prompts and guidance scales.
        nfe: counts the evaluations.
    """

    backbone: Any
    batch: Batch
    nfe: NetworkEvaluations

    def __call__(self, x: Tensor, t: Tensor, adapter: Any, *, guided: bool = False) -> Prediction:
        batch = self.batch
        self._count(2 * len(x) if guided else len(x))
        if not guided:
            return self.backbone(x, t, batch.positive, adapter.state(batch.positive, None, batch.guidance))
        return self._guided(adapter)(x, t)

    def features(self, x: Tensor, t: Tensor) -> Tensor:
        self._count(len(x))
        hidden: Tensor = self.backbone.features(x, t, self.batch.positive)
        return hidden

    def _guided(self, adapter: Any) -> Any:
        def forward(x: Tensor, t: Tensor, conditioning: Any) -> Prediction:
            w = self.batch.guidance
            return self.backbone(x, t, conditioning, adapter.state(conditioning, None, torch.cat([w, w])))

        return guided(forward, self.batch.positive, self.batch.negative, self.batch.guidance)

    def _count(self, evaluations: int) -> None:
        self.nfe.critic += evaluations
        self.nfe.backward += evaluations if torch.is_grad_enabled() else 0
