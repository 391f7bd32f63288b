"""SUN's branches and the layer's own attention in one kernel call, for the passes of a generation on a GPU.

There a pass of a small batch takes as long as the host needs to start its kernels, so that an adapter costs what it adds to
their number. On a CPU a call for each prompt is as fast, and prompts of unequal length need no padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from sunlab.adapters.kernels import EPSILON, Tokens
from sunlab.adapters.state import PassState
from sunlab.backbones.attention import AttentionCall

APART = frozenset({"cpu"})
"""Kinds of device on which each prompt has a kernel call of its own."""
ALIGNED = 8  # tokens: kernels that take a mask pad it in every call where its rows are no multiple of so many


def joins(call: AttentionCall, state: PassState, query: Tensor) -> bool:
    """Whether this pass computes all prompts together: a mask of the network's own would have to be read in every pass."""
    if query.device.type in APART or not state.inference or not call.plain:
        return False
    return state.kept is not None or call.mask() is None


@dataclass(frozen=True)
class Prompt:
    """A prompt of a layer.

    Attributes:
        tokens, mask: its keys and values and their mask, as `attend` takes them.
        factor: of its attention, from sign, scale, gain and alpha (B or 1, 1, h); 1 for the layer's own.
    """

    tokens: Tokens
    mask: Tensor | None
    factor: Tensor


@dataclass(frozen=True)
class Joined:
    """What a layer keeps over a generation.

    Attributes:
        count: of the prompts, n: the layer's own, unless its attention is joint, and then the adapter's.
        key, value: (n B, heads, L, c).
        mask: (n B, 1 or heads, 1, L), added to the scores, or None.
        factors: (n, B or 1, 1, h), to be multiplied by the ratio of norms; None: without attention normalisation, where they
            are in the values.
        shift: the sum of the betas with their factors, (h,) or (B, 1, h); None without any.
        bias: of the output projection, with the shift in it (h,); None where it cannot be folded.
        made_from: tensors whose identities tell whether this is up to date: while they are here, no other gets theirs.
    """

    count: int
    key: Tensor
    value: Tensor
    mask: Tensor | None
    factors: Tensor | None
    shift: Tensor | None
    bias: Tensor | None
    made_from: tuple[Tensor | None, ...]

    @staticmethod
    def of(prompts: Sequence[Prompt], *, normalise: bool, **rest: Any) -> "Joined":
        """Of a layer's prompts.

        Args:
            normalise: whether the ratio of norms is a factor too.
            rest: `shift`, `bias` and `made_from`.
        """
        keys, values = ([getattr(prompt.tokens, part) for prompt in prompts] for part in ("key", "value"))
        masks = [prompt.tokens.bias(prompt.mask) for prompt in prompts]
        lengths = {key.shape[2] for key in keys}
        masked = len(lengths) > 1 or any(mask is not None for mask in masks)
        length = max(lengths) + (-max(lengths) % ALIGNED if masked else 0)
        factors = torch.stack(torch.broadcast_tensors(*(prompt.factor for prompt in prompts)))
        if not normalise:
            by_head = factors.unflatten(-1, (values[0].shape[1], -1)).transpose(2, 3)
            values = [(v * f).to(v.dtype) for v, f in zip(values, by_head, strict=True)]
        mask = torch.cat([_mask(m, k, length) for m, k in zip(masks, keys, strict=True)]) if masked else None
        if lengths != {length}:
            keys, values = ([pad(p, (0, 0, 0, length - p.shape[2])) for p in parts] for parts in (keys, values))
        key, value = torch.cat(keys), torch.cat(values)
        return Joined(len(prompts), key, value, mask, factors if normalise else None, **rest)

    def attend(self, query: Tensor, own: Tensor | None = None) -> Tensor:
        """Z + P' - N' without the shift (B, P, h).

        Args:
            query: (B, heads, P, c).
            own: Z (B, P, h) if the layer's own prompt is not among these; changed in place.
        """
        rows = torch.cat([query.transpose(1, 2)] * self.count).transpose(1, 2)  # laid out as the query is
        out = scaled_dot_product_attention(rows, self.key, self.value, attn_mask=self.mask)
        each = out.transpose(1, 2).reshape(self.count, *query.shape[:1], query.shape[2], -1)  # (n, B, P, h)
        if self.factors is not None:
            wide = torch.float32 if each.dtype in (torch.float16, torch.bfloat16) else each.dtype
            sizes = torch.linalg.vector_norm(each, dim=(2, 3), keepdim=True, dtype=wide)
            first = sizes[:1] if own is None else torch.linalg.vector_norm(own, dim=(1, 2), keepdim=True, dtype=wide)
            each *= first / sizes.clamp(min=EPSILON) * self.factors  # what is all zero stays zero
        total = each.sum(0)
        return total if own is None else own.add_(total)


def _mask(mask: Tensor | None, key: Tensor, length: int) -> Tensor:
    """(B, heads or 1, 1, length), minus infinity behind the prompt's own tokens."""
    if mask is None:
        mask = key.new_zeros(1, 1, 1, key.shape[2])
    return pad(mask, (0, length - mask.shape[-1]), value=-torch.inf).expand(len(key), -1, -1, -1)
