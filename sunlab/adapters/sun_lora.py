"""SUN and a small LoRA at once: a hybrid of our own, no part of arXiv 2312.08887."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from registry import takes_also
from sunlab.adapters.base import ADAPTERS, Adapter
from sunlab.adapters.lora import LCM, LoRA
from sunlab.adapters.state import PassState
from sunlab.adapters.sun import SUN
from sunlab.backbones.attention import Adaptable
from sunlab.errors import ConfigError
from sunlab.types import Conditioning


@ADAPTERS.register("sun_lora")
class SUNLoRA(Adapter):
    """SUN for the offset and the negative prompt, a small LoRA for the step reduction; trained at once, kept in one file.

    A method of its own row in every table, never passed off as SUN: the LoRA changes the base's weights.

    Args:
        rank, alpha, targets: see `LoRA`.
        extra_positive, negative, normalise, scale, init, compat: see `SUN`.
    """

    changes_weights = True
    scales = frozenset({"scale", "lora_scale"})

    @takes_also(SUN)
    def __init__(self, *, rank: int = 8, alpha: float | None = None, targets: tuple[str, ...] = LCM, **sun: Any):
        super().__init__()
        self.sun, self.lora = SUN(**sun), LoRA(rank=rank, alpha=alpha, targets=targets)
        self.uses_negative = self.sun.uses_negative
        self.spec = {**self.lora.spec, **self.sun.spec, "name": "sun_lora"}

    def attach(self, backbone: Adaptable) -> None:
        self.sun.attach(backbone)
        try:
            self.lora.attach(backbone)
        except ConfigError:
            self.sun.detach()
            raise

    def detach(self) -> None:
        self.sun.detach()
        self.lora.detach()

    def check_attached(self) -> None:
        self.sun.check_attached()
        self.lora.check_attached()

    def state(self, positive: Conditioning, negative: Conditioning | None, guidance: Tensor) -> PassState:
        on = self.lora.state(positive, negative, guidance)
        return replace(self.sun.state(positive, negative, guidance), loras=on.loras)

    def tensors(self) -> dict[str, Tensor]:
        return {**self.sun.tensors(), **self.lora.tensors()}
