"""Training in turns: the networks that a loss owns, and the student."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sunlab.errors import ConfigError
from sunlab.losses import Loss
from sunlab.losses.joint import JointOptimizer
from sunlab.modules.optimization import Optimization

Turn = Literal["critic", "student"]


class Turns:
    """Whose optimizer step a batch is, of a loss that owns networks.

    Of every `critic_steps` + 1 optimizer steps the last trains the student and the others the loss's networks. Both are the
    parameters of one `JointOptimizer`, so that accumulation, gradient scalers, clipping and several processes work as in
    every other training, and steps, checkpoints and the data's position count alike.

    Args:
        loss: whose networks they are.
        backbone: the frozen base's.

    Attributes:
        critics: the networks, in single precision; empty for a loss without.
        turn: of the last `take`.

    Raises:
        ConfigError: a loss with networks that are no submodules of it, or no critic steps.
    """

    def __init__(self, loss: Loss, backbone: nn.Module):
        loss.prepare(backbone)
        self.turn: Turn = "student"
        self.loss, self.critics = loss, [network.float() for network in loss.networks()]
        if not self.critics:
            return
        own = list(loss.modules()) if isinstance(loss, nn.Module) else []
        if not all(any(network is module for module in own) for network in self.critics):
            name = type(loss).__name__
            raise ConfigError(f"loss: {name} must derive from torch.nn.Module and hold its networks as submodules")
        if loss.critic_steps < 1:
            raise ConfigError(f"loss.critic_steps is {loss.critic_steps}: give at least 1")

    @property
    def cycle(self) -> int:
        """Optimizer steps from one of the student's to the next."""
        return self.loss.critic_steps + 1 if self.critics else 1

    def parameters(self) -> list[nn.Parameter]:
        """Of the networks."""
        return [p for network in self.critics for p in network.parameters()]

    def state(self) -> dict[str, Tensor]:
        """The loss's tensors as the module's `state_dict` names them."""
        if not self.critics or not isinstance(self.loss, nn.Module):
            return {}
        return {f"loss.{name}": tensor for name, tensor in self.loss.state_dict().items()}

    def take(self, step: int) -> Turn:
        """Whose turn the optimizer step is. In the student's, the networks' weights take no gradient."""
        self.turn = "student" if step % self.cycle == self.cycle - 1 else "critic"
        for parameter in self.parameters():
            parameter.requires_grad_(self.turn == "critic")
        return self.turn

    def release(self) -> None:
        """Let the networks' weights take gradients again."""
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    def configure(
        self,
        optimization: Optimization,
        parameters: Iterable[nn.Parameter],
        total_steps: int | None,
        *,
        spent: Callable[[], float] | None = None,
    ) -> dict[str, Any]:
        """What `LightningModule.configure_optimizers` returns. The schedule is the student's alone and counts its steps.

        Args:
            optimization: of the student.
            parameters: the student's.
            total_steps: of both; None where something else ends the training.
            spent: the share of that budget.
        """
        joint = JointOptimizer([optimization.optimizer(parameters), self.loss.critic_optimizer(self.parameters())])
        own = None if total_steps is None else total_steps // self.cycle

        def student(step: int) -> float:
            return optimization.factor(step // self.cycle, own, spent)

        count = len(joint.optimizers[0].param_groups)
        factors: list[Callable[[int], float]] = [student for _ in range(count)]
        factors += [_constant] * (len(joint.param_groups) - count)
        schedule = torch.optim.lr_scheduler.LambdaLR(joint, factors)
        return {"optimizer": joint, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _constant(step: int) -> float:
    return 1.0
