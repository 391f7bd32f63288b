"""What all modules share: checkpoints of trainable tensors only, the optimizer, export."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf, isinf
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from sunlab.backbones.base import BaseModel
from sunlab.diffusion.grid import grid
from sunlab.errors import ConfigError
from sunlab.modules.optimization import Optimization
from sunlab.pipelines.draw import Bind, with_guidance
from sunlab.private import is_accumulating
from sunlab.solvers import Sampler
from sunlab.solvers.dpmpp_2m import DPMpp2M


class Module(LightningModule, ABC):
    """A LightningModule whose checkpoint holds only what it trains."""

    base: BaseModel
    optimization: Optimization
    alternates: bool = False
    """Whether each optimizer step trains a part of the parameters alone."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: Callable[[], float] | None = None  # the share of the budget, where it ends the training
        self._sums: dict[str, Tensor] = {}  # of what the step's micro-batches had so far
        self.strict_loading = False  # frozen tensors are not in the file; `on_load_checkpoint` is strict about the rest

    @abstractmethod
    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by the names of `state_dict`."""

    def drawing(self, steps: int) -> tuple[Sampler, Bind]:
        """How pictures are drawn with what is trained: by the base with classifier-free guidance, unless a module has a
        sampler of its own.

        Args:
            steps: of the base's DPM-Solver++ (2M).
        """
        path = self.base.backbone.path
        return Sampler(DPMpp2M(path), grid(steps, path=path)), with_guidance(self.base)

    @abstractmethod
    def export(self, folder: Path) -> list[Path]:
        """Write what the training is for, for use outside sunlab. Returns the files or folders."""

    def note(self, samples: int, **values: Tensor) -> None:
        """Log the means of an optimizer step: over the micro-batches that it accumulates, and over all ranks, which have as
        many samples each. The loss is shown in the progress bar too.

        Args:
            samples: of this micro-batch.
            values: means over them.
        """
        trainer = self._trainer
        count = 1 if trainer is None else trainer.accumulate_grad_batches
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach() / count
        if trainer is not None and is_accumulating(trainer):
            return
        means, self._sums = self._sums, {}
        for name, mean in means.items():
            self.log(name, mean, prog_bar=name == "loss", batch_size=samples, sync_dist=True)
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "epoch"):  # Lightning's own count takes each slice of a run for an epoch
            self.log("epoch", float(data.epoch()), batch_size=samples)

    def on_train_start(self) -> None:
        self._sums = {}  # a step that was left half done is made again from its start

    def total_steps(self) -> int | None:
        """Optimizer steps of the training; None where a budget, a time or a signal ends it."""
        steps = inf if self.spent else self.trainer.estimated_stepping_batches
        return None if isinf(steps) else int(steps)

    def configure_optimizers(self) -> Any:
        return self.optimization.configure(self.trainable().values(), self.total_steps(), spent=self.spent)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Lightning refuses to clip before a fused optimizer under mixed precision, which divides the gradients by fp16's
        scale in its step. They are divided here instead, and the scaler knows of it."""
        if not gradient_clip_val:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def kept(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by the names of `state_dict`."""
        return dict(self.trainable())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        names = self.kept()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state: dict[str, Tensor] = checkpoint["state_dict"]
        wanted = self.kept()
        missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
        wrong = [
            f"{k}: {tuple(state[k].shape)} for {tuple(wanted[k].shape)}"
            for k in sorted(wanted.keys() & state)
            if state[k].shape != wanted[k].shape
        ]
        if missing or extra or wrong:
            raise ConfigError(
                f"the checkpoint does not fit this model: missing {missing[:3]}, unknown {extra[:3]}, "
                f"wrong shape {wrong[:3]}; was it made with another config?"
            )
