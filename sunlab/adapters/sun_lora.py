"""SUN and a small LoRA at once: a hybrid of our own, no part of arXiv 2312.08887."""

from typing import Any

from torch import Tensor, nn

from registry import takes_also
from sunlab.adapters.base import ADAPTERS, Adapter
from sunlab.adapters.lora import LCM, LoRA
from sunlab.adapters.sun import SUN
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

    @takes_also(SUN)
    def __init__(self, *, rank: int = 8, alpha: float | None = None, targets: tuple[str, ...] = LCM, **sun: Any):
        super().__init__()
        self.sun, self.lora = SUN(**sun), LoRA(rank=rank, alpha=alpha, targets=targets)
        self.spec = {**self.lora.spec, **self.sun.spec, "name": "sun_lora"}

    def attach(self, unet: nn.Module) -> None:
        self.sun.attach(unet)  # first, so that its projections are copies of the base's
        try:
            self.lora.attach(unet)
        except (ConfigError, ValueError):
            self.sun.detach()
            raise

    def detach(self) -> None:
        self.lora.detach()
        self.sun.detach()

    def switch(self, on: bool) -> None:
        self.lora.switch(on)

    def state(self, positive: Conditioning, negative: Conditioning, guidance: Tensor) -> Any:
        return self.sun.state(positive, negative, guidance)

    def tensors(self) -> dict[str, Tensor]:
        return {**self.sun.tensors(), **self.lora.tensors()}
