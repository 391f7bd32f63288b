"""An adapter in a diffusers pipeline, shared by the pipeline's copies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from sunlab.adapters import Adapter
from sunlab.adapters.strength import Strength
from sunlab.backbones.attention import NetworkLayers
from sunlab.backbones.sd.attention import wrapped
from sunlab.backbones.state import STATE, at_time, carry
from sunlab.errors import ConfigError
from sunlab.pipelines.schedulers import check_scheduler


@dataclass
class Attachment:
    """An adapter in a pipeline. Nothing of a generation is kept here.

    Attributes:
        header, file: of the adapter.
        layers: of the network that the adapter is attached to.
        scheduler, own: the pipeline's own scheduler and class, set aside.
        hooks: of the network, see `receive_state`, and of a ControlNet, see `withhold_state`.
        strength: of the adapter, in all generations.
        aside: the adapter is detached for a moment.
    """

    adapter: Adapter
    header: Mapping[str, Any]
    file: str
    layers: NetworkLayers
    scheduler: Any
    own: type
    hooks: tuple[RemovableHandle, ...]
    strength: Strength
    aside: bool = False

    def check(self, pipe: Any) -> None:
        """Raise `ConfigError` where something that was changed since plugging would draw wrongly."""
        if network(pipe) is not self.layers.network:
            name = "unet" if hasattr(pipe, "unet") else "transformer"
            raise ConfigError(f"pipe.{name} was replaced since plugging; call sunlab.unplug(pipe) first, then plug again")
        if "solver" in self.header:
            check_scheduler(pipe.scheduler, self.header, self.scheduler)
        self.adapter.check_attached()

    def move(self, device: Any) -> None:
        """To the device and the type in which the network computes. Neither the adapter's modules nor those of processors
        below it (an IP-Adapter's) are submodules of the network, which may have moved."""
        processors = self.layers.network.attn_processors.values()
        for part in (self.adapter, *(part for p in processors for part in wrapped(p))):
            if isinstance(part, nn.Module):
                part.to(device, self.layers.network.dtype)


def receive_state(layers: NetworkLayers, running: Callable[[Any], Any]) -> RemovableHandle:
    """Carry the state that is in the arguments of a pass of the network to the layers that get no arguments. A pass without
    one, by another pipeline over the same network for instance, is the base's.

    Args:
        running: the network -> the state of its generation in this thread, where the pipeline hands none on.
    """
    key = layers.key

    def enter(network: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = dict(kwargs.get(key) or {})
        time = kwargs["timestep"] if len(args) < 2 else args[1]
        prompt = kwargs.get("encoder_hidden_states") if layers.projects else None
        state = at_time(given.get(STATE) if layers.handed else running(network), time, prompt)
        carry(state)
        if state is None:
            return args, kwargs
        if layers.passing(state):
            return args, {**kwargs, key: {**given, STATE: state}}
        given.pop(STATE, None)  # no attention layer takes it
        return args, {**kwargs, key: given or None}

    handle: RemovableHandle = layers.network.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
    return handle


def withhold_state(controlnet: nn.Module, key: str) -> RemovableHandle:
    """Take the state out of the arguments of a ControlNet, which some pipelines give what they give the network."""

    def enter(controlnet: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = {k: v for k, v in (kwargs.get(key) or {}).items() if k != STATE}
        return args, {**kwargs, key: given or None} if key in kwargs else kwargs

    return controlnet.register_forward_pre_hook(enter, with_kwargs=True)


def network(pipe: Any) -> Any:
    """The pipeline's U-Net or transformer, out of the wrap of `torch.compile`; None without one."""
    found = getattr(pipe, "unet", None)
    found = getattr(pipe, "transformer", None) if found is None else found  # a compiled module has no truth value
    return getattr(found, "_orig_mod", found)
