"""The cross-attention layers of a diffusers U-Net as `TextAttention`; extensions are diffusers' attention processors.

diffusers hands `cross_attention_kwargs` to every processor, so the state of a pass travels under the key `STATE` there: it
belongs to the call, also in other threads, under activation checkpointing and under `torch.compile`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sunlab.backbones.attention import AttentionCall, Extension, TextAttention
from sunlab.backbones.state import STATE
from sunlab.backbones.weights import computes_alone
from sunlab.errors import ConfigError

PLAIN = ("AttnProcessor", "AttnProcessor2_0", "FusedAttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor",
         "AttnProcessorNPU", "XLAFlashAttnProcessor2_0")  # fmt: skip
"""diffusers' processors of plain attention, which differ in kernels alone: an extension may compute it itself."""
BESIDE = ("IPAdapterAttnProcessor", "IPAdapterAttnProcessor2_0", "IPAdapterXFormersAttnProcessor")
"""Those that add something of their own before W_out, which is linear: an extension adds its offset to their output."""


class UNetTextAttention(TextAttention):
    """A cross-attention layer.

    Args:
        attn: diffusers' `Attention`.
    """

    def __init__(self, attn: Any):
        self.attn = attn

    @property
    def width(self) -> int:  # type: ignore[override]
        return int(self.attn.inner_dim)

    @property
    def text_width(self) -> int:  # type: ignore[override]
        return int(self.attn.cross_attention_dim)

    @property
    def heads(self) -> int:  # type: ignore[override]
        return int(self.attn.heads)

    @property
    def to_k(self) -> nn.Module:  # type: ignore[override]
        return self.attn.to_k

    @property
    def to_v(self) -> nn.Module:  # type: ignore[override]
        return self.attn.to_v

    @property
    def plain(self) -> bool:
        return type(self.attn.processor).__name__ in PLAIN

    @property
    def extended(self) -> bool:
        return isinstance(self.attn.processor, Extended)

    @property
    def divisor(self) -> float:
        """Of the output; not all of diffusers' layers have one."""
        return float(getattr(self.attn, "rescale_output_factor", 1.0))

    def norm_k(self, key: Tensor) -> Tensor:
        return key if self.attn.norm_k is None else self.attn.norm_k(key)

    def out(self, z: Tensor, bias: Tensor | None = None) -> Tensor:
        w_out = self.attn.to_out[0]
        out = self.attn.to_out[1](w_out(z) if bias is None else linear(z, w_out.weight, bias))
        return out if self.divisor == 1 else out / self.divisor

    def out_offset(self, offset: Tensor) -> Tensor:
        w_out = self.attn.to_out[0]
        return (w_out(offset) - w_out(torch.zeros_like(offset[:, :1]))) / self.divisor

    def shifted_bias(self, shift: Tensor | None, z: Tensor) -> Tensor | None:
        w_out = self.attn.to_out[0]
        if (
            not computes_alone(w_out)
            or w_out.bias is None
            or w_out.weight.device != z.device
            or w_out.weight.dtype != z.dtype
        ):
            return None
        return w_out.bias if shift is None else w_out.bias + linear(shift.to(w_out.weight.dtype), w_out.weight)


@dataclass(frozen=True)
class UNetCall(AttentionCall):
    """A call of diffusers' attention layer.

    Attributes:
        processor: the extension's.
        hidden: (B, P, h).
        context: the prompt's tokens (B, L, d), or an IP-Adapter's pair of them and of pictures.
        attention_mask, more: as diffusers passes them.
    """

    layer: UNetTextAttention
    processor: "Extended"
    hidden: Tensor
    context: Any
    attention_mask: Tensor | None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> Tensor:  # type: ignore[override]
        return self.context[0] if isinstance(self.context, tuple) else self.context

    @property
    def plain(self) -> bool:  # type: ignore[override]
        return type(self.processor.base).__name__ in PLAIN

    def query(self) -> Tensor:
        attn = self.layer.attn
        query = attn.to_q(self.hidden).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        return query if attn.norm_q is None else attn.norm_q(query)

    def mask(self) -> Tensor | None:
        if self.attention_mask is None:
            return None
        attn, batch = self.layer.attn, len(self.hidden)
        mask = attn.prepare_attention_mask(self.attention_mask, self.tokens.shape[1], batch)
        return mask.view(batch, attn.heads, -1, mask.shape[-1])

    def below(self, state: Any = None) -> Tensor:
        return self.processor.below(self.layer.attn, self.hidden, self.context, self.attention_mask, state, self.more)


class Wrapper:
    """A processor on top of another one.

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
        ip_adapter_masks: Any = None,  # diffusers passes on what a processor's signature names, and warns of the rest
        **more: Any,
    ) -> Tensor:
        if temb is not None:  # not all of diffusers' take it
            more["temb"] = temb
        if ip_adapter_masks is not None and "ip_adapter_masks" in self.takes:
            more["ip_adapter_masks"] = ip_adapter_masks
        return self.respond(attn, hidden_states, encoder_hidden_states, attention_mask, sun, more)

    __call__.__signature__ = signature(__call__)  # type: ignore[attr-defined]  # which diffusers reads in every call

    def respond(
        self, attn: Any, hidden: Tensor, context: Any, mask: Tensor | None, state: Any, more: dict[str, Any]
    ) -> Tensor:
        return self.below(attn, hidden, context, mask, None, more)

    def below(
        self, attn: Any, hidden: Tensor, context: Any, mask: Tensor | None, state: Any, more: Mapping[str, Any]
    ) -> Tensor:
        """The output of the processor that was there, with the state if it takes one."""
        given = {**more, STATE: state} if state is not None and STATE in self.takes else more
        return self.base(attn, hidden, context, mask, **given)


class Extended(Wrapper):
    """The processor of a layer with an extension. Without a state it is the one below."""

    def __init__(self, base: Any, extension: Extension):
        super().__init__(base)
        self.extension = extension

    def respond(
        self, attn: Any, hidden: Tensor, context: Any, mask: Tensor | None, state: Any, more: dict[str, Any]
    ) -> Tensor:
        if state is None:
            return self.below(attn, hidden, context, mask, None, more)
        if context is None:
            raise ConfigError("cross-attention without a prompt: the network was called without encoder_hidden_states")
        call = UNetCall(UNetTextAttention(attn), self, hidden, context, mask, more)
        if len(call.tokens) != len(hidden):
            raise ConfigError(
                f"the latents have {len(hidden)} rows, the prompt embeddings {len(call.tokens)}; a callback that changes "
                "the batch must change latents, prompt_embeds and negative_prompt_embeds alike"
            )
        return self.extension(call, state)


class Unextended(Wrapper):
    """The processor of a self-attention layer, which receives the state too, as diffusers passes it to all, and drops it."""


class UNetAttachment:
    """Extensions in a U-Net. Other libraries' processors are never removed.

    Args:
        unet: a diffusers U-Net, or another of its networks with attention processors.
        extensions: by path of a text-attention layer.

    Attributes:
        extended, unextended: the processors of layers with an extension, and of those that are no text attention.
        composable: names of the processors that an extension can be composed with.

    Raises:
        ConfigError: a path that is no text-attention layer, or a processor that cannot be composed with.
    """

    extended: ClassVar[type[Extended]] = Extended
    unextended: ClassVar[type[Unextended]] = Unextended
    composable: ClassVar[tuple[str, ...]] = PLAIN + BESIDE

    def __init__(self, unet: Any, extensions: Mapping[str, Extension]):
        self.unet, self.placed = unet, dict[str, Wrapper]()
        found, layers = dict(unet.attn_processors), self.find(unet)
        if unknown := sorted(set(extensions) - layers.keys()):
            raise ConfigError(f"the network has no text-attention layer {unknown[0]}")
        for name, processor in found.items():
            path = name.removesuffix(".processor")
            if path in extensions:
                check_composable(path, processor, self.composable)
                self.placed[name] = self.extended(processor, extensions[path])
            elif not isinstance(processor, Wrapper) and path not in layers:
                self.placed[name] = self.unextended(processor)
        unet.set_attn_processor({**found, **self.placed})
        unet.extensions = getattr(unet, "extensions", 0) + 1

    @staticmethod
    def find(unet: Any) -> Mapping[str, UNetTextAttention]:
        """The text-attention layers by path."""
        return text_attention(unet)

    def intact(self) -> bool:
        now = self.unet.attn_processors
        return all(p is now.get(name) or p in list(wrapped(now.get(name))) for name, p in self.placed.items())

    def check_removable(self) -> None:
        """Raise `ConfigError` if an extension was attached on top of one of these."""
        for name, processor in self.unet.attn_processors.items():
            ours = self.placed.get(name)
            if isinstance(ours, Extended) and ours in list(wrapped(processor)):
                raise ConfigError(f"another adapter is attached on top of this one ({name}); detach that one first")

    def remove(self) -> None:
        self.check_removable()
        now = dict(self.unet.attn_processors)
        after = {n: p.base if p is self.placed.get(n) and isinstance(p, Extended) else p for n, p in now.items()}
        if not any(isinstance(p, Extended) for p in after.values()):  # the last one takes the self-attention wrappers along
            after = {n: p.base if isinstance(p, Unextended) else p for n, p in after.items()}
        self.unet.set_attn_processor(after)
        self.placed = {}
        self.unet.extensions -= 1


def text_attention(unet: Any) -> dict[str, UNetTextAttention]:
    """The cross-attention layers of a diffusers U-Net by path, in its order."""
    layers = {
        name.removesuffix(".processor"): unet.get_submodule(name.removesuffix(".processor")) for name in unet.attn_processors
    }
    return {path: UNetTextAttention(attn) for path, attn in layers.items() if attn.is_cross_attention}


def wrapped(processor: Any) -> Iterator[Any]:
    """The processors below this one, nearest first."""
    while (processor := getattr(processor, "base", None)) is not None:
        yield processor


def check_composable(path: str, processor: Any, composable: tuple[str, ...] = PLAIN + BESIDE) -> None:
    """Raise `ConfigError` for a processor that is neither ours nor one that an extension can be composed with."""
    if isinstance(processor, Extended) or type(processor).__name__ in composable:
        return
    raise ConfigError(
        f"{path} runs {type(processor).__name__}, which an adapter cannot be composed with; remove it first, for instance "
        "with unet.set_default_attn_processor()"
    )
