"""Training in turns: the networks that a loss owns, and the student."""

import warnings
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from sunlab.errors import ConfigError
from sunlab.losses import Loss


class Turns:
    """Which network a batch trains, and the optimizer steps of a loss that owns networks (manual optimization).

    Each batch is one optimizer step, so that steps, checkpoints and the data's position count alike: of every
    `critic_steps` + 1 batches the last trains the student and the others the loss's networks.

    Args:
        loss: whose networks they are.
        backbone: the frozen base's.
        clip: the gradient's largest norm, of each optimizer; None: not clipped.

    Attributes:
        critics: the networks; empty for a loss without.

    Raises:
        ConfigError: a loss with networks that are no submodules of it, or no critic steps.
    """

    def __init__(self, loss: Loss, backbone: nn.Module, clip: float | None):
        loss.prepare(backbone)
        self.loss, self.clip, self.critics = loss, clip, list(loss.networks())
        if not self.critics:
            return
        own = list(loss.modules()) if isinstance(loss, nn.Module) else []
        if not all(any(network is module for module in own) for network in self.critics):
            name = type(loss).__name__
            raise ConfigError(f"loss: {name} must derive from torch.nn.Module and hold its networks as submodules")
        if loss.critic_steps < 1:
            raise ConfigError(f"loss.critic_steps is {loss.critic_steps}: give at least 1")

    def state(self) -> dict[str, Tensor]:
        """The loss's tensors as the module's `state_dict` names them."""
        if not self.critics or not isinstance(self.loss, nn.Module):
            return {}
        return {f"loss.{name}": tensor for name, tensor in self.loss.state_dict().items()}

    def optimizer(self) -> torch.optim.Optimizer:
        return self.loss.critic_optimizer([p for network in self.critics for p in network.parameters()])

    def check(self, trainer: Trainer) -> None:
        """Raise `ConfigError` for what is not supported with networks of a loss."""
        # Lightning recommends saving the state before the step; ours is the one after it, as in all other runs.
        warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization", UserWarning)
        remedies = []
        if trainer.world_size > 1:
            remedies.append("trainer.devices: use one process")
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            remedies.append("trainer.precision: use bf16-mixed or 32-true, which have no gradient scaler")
        if remedies:
            raise ConfigError(f"loss: {type(self.loss).__name__} trains networks of its own; {'; '.join(remedies)}")

    def step(self, module: Any, samples: Any, batch: Any) -> dict[str, Any]:
        """One optimizer step of the network whose turn it is. The result's `turn` is `critic` or `student`."""
        cycle = self.loss.critic_steps + 1
        turn = "student" if module.trainer.global_step % cycle == cycle - 1 else "critic"
        student, critic = module.optimizers()
        optimizer = student if turn == "student" else critic
        with optimizer.toggle_model():  # the other's weights take no gradient
            outputs = (module.student_step if turn == "student" else module.critic_step)(samples, batch)
            module.manual_backward(outputs["loss"])
            if self.clip:
                nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if turn == "student":
            module.lr_schedulers().step()
        return {**outputs, "loss": outputs["loss"].detach(), "turn": turn}
