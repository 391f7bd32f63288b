"""The contract of an adapter."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from registry import Registry
from sunlab.types import Conditioning


class Adapter(nn.Module, ABC):
    """Trainable parameters plugged into a frozen U-Net.

    With the adapter off the U-Net is the base, to the bit: that is the teacher. Its parameters belong to the adapter, not
    to the U-Net, unless a library (peft) puts them there; `trainable` names them in either case.
    """

    spec: Mapping[str, Any]
    """The plug's name and parameters, as the adapter file states them."""

    steered: bool = False
    """Whether `state` depends on the guidance scale."""

    @abstractmethod
    def attach(self, unet: nn.Module) -> None:
        """Create the parameters for this U-Net and plug them in. Raises `ConfigError` where they do not fit."""

    @abstractmethod
    def detach(self) -> None:
        """Leave the U-Net as it was found, to the bit."""

    def switch(self, on: bool) -> None:
        """For adapters that live inside the U-Net's weights (LoRA). Others are on in a pass with a `state`."""

    @abstractmethod
    def state(self, positive: Conditioning, negative: Conditioning, guidance: Tensor) -> Any:
        """The state of a pass with the adapter on, for `Backbone.predict`; None if its layers need none. guidance (B,)."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The trainable parameters, named by layer, for checkpoints and the adapter file."""

    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.tensors().values() if isinstance(p, nn.Parameter)]


def blind(spec: Mapping[str, Any]) -> bool:
    """Whether negative prompts have no effect on an adapter of this name and parameters."""
    return spec["name"] == "lora" or spec.get("negative") is False


ADAPTERS: Registry[Adapter] = Registry(
    "adapter",
    base=Adapter,
    entry_points="sunlab.adapters",
    components=(
        "sunlab.adapters.sun",
        "sunlab.adapters.sun_w",
        "sunlab.adapters.lora",
        "sunlab.adapters.sun_lora",
        "sunlab.adapters.nag",
    ),
)
