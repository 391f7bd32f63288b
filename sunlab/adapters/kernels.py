"""Attention to a prompt: few tokens, many positions, several prompts under one query."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

EPSILON = 1e-12  # below it a norm counts as zero: an all-zero branch stays zero instead of NaN
VECTOR = 64
"""Bytes. On CPUs torch's kernel and its softmax take up to four times the time where a row of scores does not fill vectors
of so many, as CLIP's 77 tokens do not."""


@dataclass(frozen=True)
class Tokens:
    """A prompt's keys and values, laid out for `attend`.

    Attributes:
        key, value: (B, heads, L, c), L padded where that is faster.
        padding: (1, 1, 1, L), minus infinity at what is padding; None without any.
    """

    key: Tensor
    value: Tensor
    padding: Tensor | None

    @staticmethod
    def of(key: Tensor, value: Tensor, *, exact: bool = False) -> "Tokens":
        """Of key and value (B, heads, L, c).

        Args:
            exact: in float32, to the bit what diffusers' own processor computes.
        """
        more = -key.shape[2] % (VECTOR // key.element_size())
        as_they_are = torch.is_grad_enabled() or (exact and key.dtype == torch.float32)
        if not more or key.device.type != "cpu" or as_they_are:
            return Tokens(key, value, None)
        padding = pad(key.new_zeros(1, 1, 1, key.shape[2]), (0, more), value=-torch.inf)
        return Tokens(pad(key, (0, 0, 0, more)), pad(value, (0, 0, 0, more)), padding)

    def bias(self, mask: Tensor | None) -> Tensor | None:
        """A term of the scores, (B, heads or 1, P or 1, L without padding) or None, with that of the padding, or None."""
        if self.padding is None:
            return mask
        return self.padding if mask is None else pad(mask, (0, self.padding.shape[-1] - mask.shape[-1]), value=-torch.inf)


def attend(query: Tensor, tokens: Tokens, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention.

    Args:
        query: (B, heads, P, c), best as a view of (B, P, heads, c), which the result is then too.
        mask: (B, heads, 1 or P, L without padding), added to the scores.

    Returns:
        (B, P, heads c).
    """
    mask = tokens.bias(mask)
    kernel = with_softmax if query.device.type == "cpu" and query.dtype == torch.bfloat16 else scaled_dot_product_attention
    return kernel(query, tokens.key, tokens.value, attn_mask=mask).transpose(1, 2).flatten(2)


def with_softmax(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Matrix products around a softmax: what torch's kernel computes, and in bfloat16 on CPUs in less time, backward
    included. The scores are rounded to bfloat16 (see docs/speed.md). Arguments and result as of the kernel."""
    batch, heads, positions, width = query.shape
    size, bias = (batch * heads, positions, key.shape[2]), query.new_zeros(1)
    if attn_mask is not None:
        bias = attn_mask.expand(batch, heads, -1, -1).flatten(0, 1)
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))
    scores = torch.baddbmm(bias.expand(size), query, key.mT, beta=float(attn_mask is not None), alpha=width**-0.5)
    return (scores.softmax(-1) @ value).unflatten(0, (batch, heads))
