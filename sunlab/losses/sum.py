"""A weighted sum of losses."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sunlab.errors import ConfigError
from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput, summed
from sunlab.losses.joint import JointOptimizer
from sunlab.types import Batch


@LOSSES.register("sum")
class Sum(Loss, nn.Module):
    """A weighted sum of losses over the same batch, each logged.

    Each loss's values are weighted by its own times. Losses that draw for the same purpose draw the same numbers. The
    networks of all losses are trained in the same batches, as many as the largest `critic_steps` among them.

    Args:
        losses: each a name, or a mapping with `name` and parameters.
        weights: one factor a loss; null: 1 each.

    Raises:
        ConfigError: no loss, or another number of weights.
    """

    def __init__(self, *, losses: list[str | dict[str, Any]], weights: list[float] | None = None):
        super().__init__()
        if not losses or (weights is not None and len(weights) != len(losses)):
            given = "none" if weights is None else len(weights)
            raise ConfigError(
                f"loss.losses has {len(losses)} and loss.weights {given}: give a loss or more, and a weight each"
            )
        self.losses = [LOSSES.build(request, key=f"loss.losses.{i}") for i, request in enumerate(losses)]
        self.parts = nn.ModuleList(loss for loss in self.losses if isinstance(loss, nn.Module))
        self.weights = weights or [1.0] * len(losses)
        self.critic_steps = max(loss.critic_steps for loss in self.losses)
        self.surrogate = any(loss.surrogate for loss in self.losses)
        names = [request if isinstance(request, str) else str(request["name"]) for request in losses]
        self.names = [f"{n} {names[:i].count(n) + 1}" if names.count(n) > 1 else n for i, n in enumerate(names)]

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        outputs = [loss(batch, student, teacher, distance) for loss in self.losses]
        return summed(dict(zip(self.names, outputs, strict=True)), self.weights)

    def prepare(self, backbone: Any) -> None:
        for loss in self.losses:
            loss.prepare(backbone)

    def networks(self) -> Sequence[nn.Module]:
        return [network for loss in self.losses for network in loss.networks()]

    def critic_step(self, batch: Batch, student: BoundSampler, teacher: BoundSampler) -> Tensor:
        owners = [loss for loss in self.losses if loss.networks()]
        return torch.stack([loss.critic_step(batch, student, teacher) for loss in owners]).sum(0)

    def critic_optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Each loss's own, over its networks."""
        owned = [(loss, [p for network in loss.networks() for p in network.parameters()]) for loss in self.losses]
        return JointOptimizer([loss.critic_optimizer(own) for loss, own in owned if own])
