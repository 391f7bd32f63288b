"""Training an adapter: SUN, or any other that attaches to the frozen network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sunlab.adapters import Adapter
from sunlab.backbones.base import BaseModel
from sunlab.export import save_adapter
from sunlab.losses import Loss
from sunlab.modules.distillation import DistillationModule
from sunlab.pipelines.draw import Bind, with_adapter
from sunlab.types import Batch


class AdapterModule(DistillationModule):
    """The student is the frozen base with the adapter on; the teacher is the same U-Net with the adapter off.

    Args:
        base, loss, options: see `DistillationModule`.
        adapter: attached to the base's network here.

    Attributes:
        after: summary of the training that the adapter's first weights are from, for the exported file; None: untrained.
    """

    after: Mapping[str, Any] | None = None

    def __init__(self, base: BaseModel, adapter: Adapter, loss: Loss, **options: Any):
        super().__init__(base, loss, **options)
        self.adapter = adapter
        adapter.attach(base.backbone)
        self.train_in_single_precision()

    def trainable(self) -> dict[str, nn.Parameter]:
        wanted = {id(p) for p in self.adapter.trainable()}
        return {name: p for name, p in self.named_parameters() if id(p) in wanted}

    def predict_student(self, x: Tensor, t: Tensor, batch: Batch) -> Any:
        state = self.adapter.state(batch.positive, batch.negative, batch.guidance)
        return self.base.backbone(x, t, batch.positive, state)

    def bind_student(self) -> Bind:
        return with_adapter(self.base, self.adapter)

    def header(self) -> dict[str, Any]:
        header = super().header()
        if self.after is not None:
            header["training"]["after"] = dict(self.after)
        return header

    def export(self, folder: Path) -> list[Path]:
        """The adapter file."""
        folder.mkdir(parents=True, exist_ok=True)
        return [save_adapter(folder / "adapter.safetensors", self.adapter, self.header())]
