"""Training a student with weights of its own: a full copy of the U-Net, or a LoRA."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sunlab.adapters import Adapter
from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import save_base
from sunlab.export import save_adapter
from sunlab.losses import Loss
from sunlab.modules.distillation import DistillationModule
from sunlab.pipelines.draw import Bind, with_adapter, with_backbone
from sunlab.types import Batch


class StudentModule(DistillationModule):
    """The classical alternatives to an adapter: the negative prompt has no effect on them.

    Args:
        base, loss, options: see `DistillationModule`.
        lora: None for a full copy, the one case with two U-Nets in memory.
    """

    def __init__(self, base: BaseModel, loss: Loss, *, lora: Adapter | None = None, **options: Any):
        copy = deepcopy(base.backbone) if lora is None else None  # without what the loss attaches
        super().__init__(base, loss, **options)
        self.lora, self.copy = lora, None if copy is None else copy.requires_grad_(True)
        if lora is not None:
            lora.attach(base.backbone)
        self.train_in_single_precision()

    def trainable(self) -> dict[str, nn.Parameter]:
        parameters = self.copy.parameters() if self.copy is not None else self._lora.trainable()
        wanted = {id(p) for p in parameters}
        return {name: p for name, p in self.named_parameters() if id(p) in wanted}

    @property
    def _lora(self) -> Adapter:
        assert self.lora is not None
        return self.lora

    def predict_student(self, x: Tensor, t: Tensor, batch: Batch) -> Any:
        if self.copy is not None:
            return self.copy(x, t, batch.positive)
        state = self._lora.state(batch.positive, batch.negative, batch.guidance)
        return self.base.backbone(x, t, batch.positive, state)

    def bind_student(self) -> Bind:
        return with_adapter(self.base, self._lora) if self.copy is None else with_backbone(self.copy)

    def export(self, folder: Path) -> list[Path]:
        """The LoRA's file, or a diffusers folder of the base with the student's U-Net."""
        if self.copy is None:
            folder.mkdir(parents=True, exist_ok=True)
            return [save_adapter(folder / "adapter.safetensors", self._lora, self.header())]
        save_base(replace(self.base, backbone=self.copy), folder / "student")
        return [folder / "student"]
