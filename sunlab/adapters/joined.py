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
    if query.device.type in APART or not state.inference or not call.plain or call.layer.joint:
        return False
    return state.kept is not None or call.mask() is None


@dataclass(frozen=True)
class Prompt:
    """A prompt of a layer.

    Attributes:
        tokens, mask: its keys and values and their mask, as `attend` takes them.
        factor: of its attention, from sign, scale, gain and alpha (B or 1, 1, h); None: it is the layer's own, with 1.
    """

    tokens: Tokens
    mask: Tensor | None
    factor: Tensor | None = None


@dataclass(frozen=True)
class Joined:
    """What a layer keeps over a generation.

    Attributes:
        key, value: (n B, heads, L, c) of n prompts, the layer's own first.
        mask: (n B, 1 or heads, 1, L), added to the scores, or None.
        factors: of the other prompts (n - 1, B or 1, 1, h), to be multiplied by the ratio of norms; None: without attention
            normalisation, where they are in the values.
        shift: the sum of the betas with their factors, (h,) or (B, 1, h); None without any.
        bias: of the output projection, with the shift in it (h,); None where it cannot be folded.
        made_from: tensors whose identities tell whether this is up to date: while they are here, no other gets theirs.
    """

    key: Tensor
    value: Tensor
    mask: Tensor | None
    factors: Tensor | None
    shift: Tensor | None
    bias: Tensor | None
    made_from: tuple[Tensor | None, ...]

    @staticmethod
    def of(prompts: Sequence[Prompt], *, normalise: bool, **rest: Any) -> "Joined":
        """Of the layer's own prompt and the others.

        Args:
            normalise: whether the ratio of norms is a factor too.
            rest: `shift`, `bias` and `made_from`.
        """
        keys, values = ([getattr(prompt.tokens, part) for prompt in prompts] for part in ("key", "value"))
        masks = [prompt.tokens.bias(prompt.mask) for prompt in prompts]
        lengths = {key.shape[2] for key in keys}
        masked = len(lengths) > 1 or any(mask is not None for mask in masks)
        length = max(lengths) + (-max(lengths) % ALIGNED if masked else 0)
        factors = [prompt.factor for prompt in prompts if prompt.factor is not None]
        if not normalise:
            heads = values[0].shape[1]
            by_head = [factor.unflatten(-1, (heads, -1)).transpose(1, 2) for factor in factors]
            values[1:] = [(v * f).to(v.dtype) for v, f in zip(values[1:], by_head, strict=True)]
        key, value = (torch.cat([pad(p, (0, 0, 0, length - p.shape[2])) for p in parts]) for parts in (keys, values))
        mask = torch.cat([_mask(m, k, length) for m, k in zip(masks, keys, strict=True)]) if masked else None
        return Joined(key, value, mask, torch.stack(torch.broadcast_tensors(*factors)) if normalise else None, **rest)

    def attend(self, query: Tensor) -> Tensor:
        """Z + P' - N' without the shift (B, P, h), of query (B, heads, P, c)."""
        count = len(self.key) // len(query)
        rows = torch.cat([query.transpose(1, 2)] * count).transpose(1, 2)  # (n B, heads, P, c), laid out as the query is
        out = scaled_dot_product_attention(rows, self.key, self.value, attn_mask=self.mask)
        each = out.transpose(1, 2).flatten(2).unflatten(0, (count, -1))  # (n, B, P, h)
        if self.factors is None:
            return each.sum(0)
        wide = torch.float32 if each.dtype in (torch.float16, torch.bfloat16) else each.dtype
        sizes = torch.linalg.vector_norm(each, dim=(2, 3), keepdim=True, dtype=wide)
        ratio = (sizes[:1] / sizes[1:]).masked_fill(sizes[1:] <= EPSILON, 0.0)
        total = each[0]
        for part, weight in zip(each[1:], (ratio * self.factors).to(each.dtype), strict=True):
            total = total.addcmul_(part, weight)
        return total


def _mask(mask: Tensor | None, key: Tensor, length: int) -> Tensor:
    """(B, heads or 1, 1, length), minus infinity behind the prompt's own tokens."""
    if mask is None:
        mask = key.new_zeros(1, 1, 1, key.shape[2])
    return pad(mask, (0, length - mask.shape[-1]), value=-torch.inf).expand(len(key), -1, -1, -1)
