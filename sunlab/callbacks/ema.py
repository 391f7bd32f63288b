"""Exponential moving average of the trained parameters, and of nothing else."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sunlab.callbacks.base import CALLBACKS, Averaging


@CALLBACKS.register("ema")
class EMA(Averaging):
    """Averages the trainable parameters after each optimizer step; validation, pictures and export use the average.

    Lightning's own averaging copies the whole module; with a frozen U-Net that would be a second one in memory.

    Args:
        decay: of the average; early on it is at most (1 + n) / (10 + n) after n steps.
    """

    def __init__(self, *, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] = {}
        self._last_step = 0

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        parameters = self._parameters(module)
        if not self.average:
            self.average = {k: p.detach().clone() for k, p in parameters.items()}
        self.average = {k: v.to(parameters[k].device) for k, v in self.average.items()}
        self._last_step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *args: Any) -> None:
        if isinstance(outputs, dict) and outputs.get("turn") == "critic":
            return  # a network of the loss was trained
        if trainer.global_step == self._last_step:
            return  # gradients are still being accumulated
        self._last_step = trainer.global_step
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        parameters = self._parameters(module)
        now = [parameters[k].detach() for k in self.average]
        get_ema_multi_avg_fn(decay)(list(self.average.values()), now, None)

    @torch.no_grad()
    def swap(self, module: LightningModule) -> None:
        parameters = self._parameters(module)
        if self._trained:
            source, self._trained = self._trained, {}
        else:
            self._trained = {k: p.detach().clone() for k, p in parameters.items()}
            source = self.average
        for name, parameter in parameters.items():
            parameter.copy_(source[name])

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.swap(module)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.swap(module)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.average = state_dict["steps"], state_dict["average"]

    @staticmethod
    def _parameters(module: LightningModule) -> dict[str, Tensor]:
        return module.trainable()  # type: ignore[operator]
