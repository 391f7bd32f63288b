"""The toy's cross-attention layer, and its extensions: a stack in the layer, the state of a pass read where it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sunlab.backbones import AttentionCall, Extension, TextAttention
from sunlab.backbones.state import carried
from sunlab.errors import ConfigError


class ToyAttention(nn.Module):
    """Cross-attention with normalised queries and keys; `extensions` run from the last to the first.

    Args:
        width: h. text_width: d. heads: that h is split into.
    """

    def __init__(self, width: int, text_width: int, *, heads: int):
        super().__init__()
        self.width, self.text_width, self.heads = width, text_width, heads
        self.to_q, self.to_out = nn.Linear(width, width), nn.Linear(width, width)
        self.to_k, self.to_v = (nn.Linear(text_width, width, bias=False) for _ in range(2))
        self.norm_q, self.norm_k = (nn.LayerNorm(width // heads) for _ in range(2))
        self.extensions: tuple[Extension, ...] = ()

    def forward(self, hidden: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        bias = None if mask is None else torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, -torch.inf)
        call = ToyCall(
            ToyTextAttention(self), hidden, tokens, None if bias is None else bias[:, None, None], self.extensions
        )
        return call.below(carried())

    def split(self, x: Tensor) -> Tensor:
        """(B, L, h) -> (B, heads, L, c)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ToyTextAttention(TextAttention):
    """A `ToyAttention` as adapters see it."""

    def __init__(self, attention: ToyAttention):
        self.attention = attention
        self.width, self.text_width, self.heads = attention.width, attention.text_width, attention.heads

    @property
    def to_k(self) -> nn.Module:  # type: ignore[override]
        return self.attention.to_k

    @property
    def to_v(self) -> nn.Module:  # type: ignore[override]
        return self.attention.to_v

    @property
    def plain(self) -> bool:
        return not self.extended

    @property
    def extended(self) -> bool:
        return bool(self.attention.extensions)

    def norm_k(self, key: Tensor) -> Tensor:
        return self.attention.norm_k(key)

    def out(self, z: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.attention.to_out(z)

    def out_offset(self, offset: Tensor) -> Tensor:
        return self.attention.to_out(offset) - self.attention.to_out(torch.zeros_like(offset[:, :1]))


@dataclass(frozen=True)
class ToyCall(AttentionCall):
    """One pass; `rest` are the extensions that are still to run, the outermost last."""

    layer: ToyTextAttention
    hidden: Tensor
    tokens: Tensor
    bias: Tensor | None
    rest: tuple[Extension, ...]

    @property
    def plain(self) -> bool:  # type: ignore[override]
        return not self.rest

    def query(self) -> Tensor:
        attention = self.layer.attention
        return attention.norm_q(attention.split(attention.to_q(self.hidden)))

    def mask(self) -> Tensor | None:
        return self.bias

    def below(self, state: Any = None) -> Tensor:
        if self.rest and state is not None:
            inner = ToyCall(self.layer, self.hidden, self.tokens, self.bias, self.rest[:-1])
            return self.rest[-1](inner, state)
        attention = self.layer.attention
        key = attention.norm_k(attention.split(attention.to_k(self.tokens)))
        value = attention.split(attention.to_v(self.tokens))
        z = scaled_dot_product_attention(self.query(), key, value, attn_mask=self.bias)
        return attention.to_out(z.transpose(1, 2).flatten(2))


class ToyAttachment:
    """Extensions in the layers of a toy. Raises `ConfigError` for a layer that it does not have."""

    def __init__(self, layers: Mapping[str, ToyAttention], extensions: Mapping[str, Extension]):
        if unknown := sorted(set(extensions) - set(layers)):
            raise ConfigError(f"the toy has no cross-attention layer {unknown[0]}")
        self.placed = [(layers[path], extension) for path, extension in extensions.items()]
        for layer, extension in self.placed:
            layer.extensions = (*layer.extensions, extension)

    def intact(self) -> bool:
        return all(extension in layer.extensions for layer, extension in self.placed)

    def remove(self) -> None:
        for layer, extension in self.placed:
            if layer.extensions[-1:] != (extension,):
                raise ConfigError("another adapter is attached on top of this one; detach that one first")
        for layer, _ in self.placed:
            layer.extensions = layer.extensions[:-1]
        self.placed = []
