"""diffusers' attention processors: the call that all of ours answer, and their place in a U-Net beside anybody else's."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sunlab.errors import ConfigError

PLAIN = ("AttnProcessor", "AttnProcessor2_0", "FusedAttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor",
         "AttnProcessorNPU", "XLAFlashAttnProcessor2_0")  # fmt: skip
"""diffusers' processors of plain attention, which differ in kernels alone: ours stands in for them."""
BESIDE = ("IPAdapterAttnProcessor", "IPAdapterAttnProcessor2_0", "IPAdapterXFormersAttnProcessor")
"""Those that add something of their own before W_out, which is linear: ours adds its offset to their output."""


@dataclass(frozen=True)
class Call:
    """What a U-Net hands to the processor of an attention layer.

    Attributes:
        attn: the layer, with its projections.
        hidden: (B, P, h).
        context: the prompt's tokens (B, L, d), an IP-Adapter's pair of them and of pictures, or None in self-attention.
        mask, temb, more: as diffusers hands them over.
    """

    attn: Any
    hidden: Tensor
    context: Any
    mask: Tensor | None
    temb: Tensor | None
    more: Mapping[str, Any]

    @property
    def tokens(self) -> Tensor:
        """The positive prompt's (B, L, d)."""
        assert self.context is not None, "cross-attention needs a prompt"
        return self.context[0] if isinstance(self.context, tuple) else self.context

    def query(self) -> Tensor:
        """(B, heads, P, c), a view of (B, P, heads, c): attention's output is laid out alike, and so needs no copy."""
        return self.attn.to_q(self.hidden).unflatten(-1, (self.attn.heads, -1)).transpose(1, 2)

    def prepared_mask(self) -> Tensor | None:
        """Of the positive tokens, for scaled dot products."""
        if self.mask is None:
            return None
        mask = self.attn.prepare_attention_mask(self.mask, self.tokens.shape[1], len(self.hidden))
        return mask.view(len(self.hidden), self.attn.heads, -1, mask.shape[-1])

    def out(self, z: Tensor) -> Tensor:
        """W_out z (B, P, h), as the layer ends."""
        return self._end(self.attn.to_out[0](z))

    def out_is_linear(self, z: Tensor) -> bool:
        """Whether W_out is a matrix and a bias alone, no LoRA, and here, so that `out_with` can be called with z."""
        w_out = self.attn.to_out[0]
        return type(w_out) is nn.Linear and w_out.bias is not None and w_out.weight.device == z.device

    def bias_with(self, shift: Tensor | None) -> Tensor:
        """W_out's bias and W_out shift (h,): moved by so much, its output is as if `shift` (h,) were added to its input."""
        w_out = self.attn.to_out[0]
        return w_out.bias if shift is None else w_out.bias + linear(shift.to(w_out.weight.dtype), w_out.weight)

    def out_with(self, z: Tensor, bias: Tensor) -> Tensor:
        """As `out`, with another bias (h,)."""
        return self._end(linear(z, self.attn.to_out[0].weight, bias))

    def _end(self, out: Tensor) -> Tensor:
        out = self.attn.to_out[1](out)
        return out if self.attn.rescale_output_factor == 1 else out / self.attn.rescale_output_factor

    def out_offset(self, offset: Tensor) -> Tensor:
        """W_out (z + offset) - W_out z (B, P, h): W_out without its bias."""
        w_out = self.attn.to_out[0]
        return (w_out(offset) - w_out(torch.zeros_like(offset[:, :1]))) / self.attn.rescale_output_factor


class Processor(ABC):
    """A processor that stands on another one, and is that one in every call without `sun`.

    Args:
        base: the processor that was there.
    """

    def __init__(self, base: Any):
        self.base = base
        self.takes = frozenset(signature(type(base).__call__).parameters)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        sun: Any = None,
        ip_adapter_masks: Any = None,  # diffusers hands on what a processor names, and drops the rest with a warning
        **more: Any,
    ) -> Tensor:
        if ip_adapter_masks is not None and "ip_adapter_masks" in self.takes:
            more["ip_adapter_masks"] = ip_adapter_masks
        call = Call(attn, hidden_states, encoder_hidden_states, attention_mask, temb, more)
        return self.below(call) if sun is None else self.respond(call, sun)

    @abstractmethod
    def respond(self, call: Call, sun: Any) -> Tensor:
        """The layer's output (B, P, h) in a pass with the adapter on; `sun`: see `BranchInputs`."""

    def below(self, call: Call, sun: Any = None) -> Tensor:
        """What the processor that was there answers; handed `sun` where it takes it."""
        more = dict(call.more)
        if call.temb is not None:  # not all of diffusers' take it
            more["temb"] = call.temb
        if sun is not None and "sun" in self.takes:
            more["sun"] = sun
        return self.base(call.attn, call.hidden, call.context, call.mask, **more)


class Untouched(Processor):
    """Of a self-attention layer: leaves `sun` aside, which diffusers hands to all layers alike."""

    def respond(self, call: Call, sun: Any) -> Tensor:
        return self.below(call)


class Placement:
    """One adapter's processors in a U-Net. Nobody else's is ever taken away.

    Args:
        unet: a diffusers U-Net.
        make: (layer's path, layer, the processor that is there) -> ours, or None to leave the layer alone; it raises
            `ConfigError` before anything is changed.
    """

    def __init__(self, unet: Any, make: Callable[[str, Any, Any], Processor | None]):
        self.unet, self.placed = unet, dict[str, Processor]()
        found = dict(unet.attn_processors)
        for name, processor in found.items():
            path = name.removesuffix(".processor")
            if (ours := make(path, unet.get_submodule(path), processor)) is not None:
                self.placed[name] = ours
        unet.set_attn_processor({**found, **self.placed})

    def check_removable(self) -> None:
        """Raise `ConfigError` where another adapter stands on this one."""
        for name, processor in self.unet.attn_processors.items():
            if self.placed.get(name) in list(below(processor)):
                raise ConfigError(f"another adapter stands on this one ({name}); detach that one first")

    def remove(self) -> None:
        """Put back what was there. One that somebody has set meanwhile is theirs, and stays. Raises as above."""
        self.check_removable()
        now = self.unet.attn_processors
        self.unet.set_attn_processor({n: p.base if p is self.placed.get(n) else p for n, p in now.items()})


def below(processor: Any) -> Iterator[Any]:
    """The processors that this one stands on, nearest first."""
    while (processor := getattr(processor, "base", None)) is not None:
        yield processor


def check_composable(path: str, processor: Any, *, known: tuple[str, ...], adapter: str) -> None:
    """Raise `ConfigError` for a processor that is neither ours nor named in `known`."""
    if isinstance(processor, Processor) or type(processor).__name__ in known:
        return
    raise ConfigError(
        f"{path} runs {type(processor).__name__}, which {adapter} cannot be composed with; take it out first, for "
        "instance with unet.set_default_attn_processor()"
    )
