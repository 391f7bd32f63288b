"""The contract of an adapter."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from registry import Registry
from sunlab.backbones.attention import Adaptable, TokenContext
from sunlab.errors import ConfigError
from sunlab.types import Conditioning

REPLACED = (
    "layers that the adapter acts in were replaced since it was attached; detach it and attach it again (in a pipeline: "
    "sunlab.unplug(pipe), then sunlab.plug)"
)


class Adapter(nn.Module, ABC):
    """Trainable parameters beside a frozen network.

    An adapter acts in a pass that gets its `state`. Every other pass is the base's, to the bit: that is the teacher. The
    state belongs to the pass, so threads, recomputed activations and several adapters over one network do not disturb each
    other.
    """

    spec: Mapping[str, Any]
    """The component's name and parameters, as the adapter file states them."""

    steered: bool = False
    """Whether the guidance scale has an effect."""

    uses_negative: bool = True
    """Whether the negative prompt has an effect. If not, `state` takes None for it."""

    scales: frozenset[str] = frozenset()
    """What can be scaled at sampling, by the names in `Strength`: `scale`, `lora_scale`. Its state then has the method
    `scaled(offset=..., lora=...)`."""

    changes_weights: bool = False
    """Whether it acts in linear and convolution layers (LoRA), not in text attention alone."""

    always: bool | None = None
    """Whether it acts in every pass, as part of the base: a style LoRA in training. None: it cannot."""

    @abstractmethod
    def attach(self, backbone: Adaptable) -> None:
        """Create the parameters for this network, unless they exist, and extend its layers. Raises `ConfigError` where they
        do not fit; the network is then left as it was."""

    @abstractmethod
    def detach(self) -> None:
        """Leave the network as it was found, to the bit. The parameters are kept."""

    @abstractmethod
    def check_attached(self) -> None:
        """Raise `ConfigError` if the network's layers were replaced since `attach`, so that the adapter is not in all."""

    @abstractmethod
    def state(self, positive: Conditioning, negative: Conditioning | None, guidance: Tensor) -> Any:
        """The state of a pass with the adapter on, for `Backbone.predict`; guidance (B,). The layers receive the negative
        prompt through the network's own projection, with its mask (`Backbone.context`). Raises `ConfigError` if that is
        needed and no network is attached to."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The trainable parameters, named by layer, for checkpoints and the adapter file."""

    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.tensors().values() if isinstance(p, nn.Parameter)]


def unattached(negative: Conditioning) -> TokenContext:
    """The `context` of an adapter that is not attached. Raises `ConfigError`."""
    raise ConfigError("this adapter is not attached to a network; call adapter.attach(backbone) before adapter.state(...)")


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
        "sunlab.adapters.vsf",
        "sunlab.adapters.agd",
    ),
)
