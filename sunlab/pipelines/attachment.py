"""An adapter in a diffusers pipeline, shared by the pipeline's copies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from sunlab.adapters import Adapter
from sunlab.adapters.strength import Strength
from sunlab.backbones.sd.attention import STATE, wrapped
from sunlab.backbones.sd.layers import UNetLayers, passing
from sunlab.backbones.state import at_time, carry
from sunlab.errors import ConfigError
from sunlab.pipelines.schedulers import check_scheduler


@dataclass
class Attachment:
    """An adapter in a pipeline. Nothing of a generation is kept here.

    Attributes:
        header, file: of the adapter.
        layers: of the U-Net that the adapter is attached to.
        scheduler, own: the pipeline's own scheduler and class, set aside.
        hook: of the U-Net, see `receive_state`.
        strength: of the adapter, in all generations.
        aside: the adapter is detached for a moment.
    """

    adapter: Adapter
    header: Mapping[str, Any]
    file: str
    layers: UNetLayers
    scheduler: Any
    own: type
    hook: RemovableHandle
    strength: Strength
    aside: bool = False

    def check(self, pipe: Any) -> None:
        """Raise `ConfigError` where something that was changed since plugging would draw wrongly."""
        if network(pipe) is not self.layers.unet:
            raise ConfigError("pipe.unet was replaced since plugging; call sunlab.unplug(pipe) first, then plug again")
        if "solver" in self.header:
            check_scheduler(pipe.scheduler, self.header, self.scheduler)
        self.adapter.check_attached()

    def move(self, device: Any) -> None:
        """To the device and the type in which the U-Net computes. Neither the adapter's modules nor those of processors
        below it (an IP-Adapter's) are submodules of the U-Net, which may have moved."""
        processors = self.layers.unet.attn_processors.values()
        for part in (self.adapter, *(part for p in processors for part in wrapped(p))):
            if isinstance(part, nn.Module):
                part.to(device, self.layers.unet.dtype)


def receive_state(layers: UNetLayers) -> RemovableHandle:
    """Carry the state that is in the arguments of a pass of the U-Net to the layers that get no arguments. A pass without
    one, by another pipeline over the same U-Net for instance, is the base's."""

    def enter(unet: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = dict(kwargs.get("cross_attention_kwargs") or {})
        time = kwargs["timestep"] if len(args) < 2 else args[1]
        state = at_time(given.get(STATE), time)
        carry(state)
        if state is None:
            return args, kwargs
        if passing(unet, state):
            return args, {**kwargs, "cross_attention_kwargs": {**given, STATE: state}}
        del given[STATE]  # no attention layer takes it
        return args, {**kwargs, "cross_attention_kwargs": given or None}

    return layers.unet.register_forward_pre_hook(enter, with_kwargs=True)


def network(pipe: Any) -> Any:
    """The pipeline's U-Net, out of the wrap of `torch.compile`."""
    return getattr(pipe.unet, "_orig_mod", pipe.unet)
