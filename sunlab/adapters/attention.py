"""diffusers' attention processors with SUN's extra branches (arXiv 2312.08887; formulas as the released code computes
them, see `Branch`)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

EPSILON = 1e-12  # below it a norm counts as zero: an all-zero branch stays zero instead of NaN


@dataclass(frozen=True)
class BranchInputs:
    """What a pass with the adapter on hands to every cross-attention layer.

    Attributes:
        negative: the negative prompt's tokens (B, L, d).
        gain: factor on the branches (B,), or None for 1: how a guidance-conditioned adapter is steered.
    """

    negative: Tensor
    gain: Tensor | None = None


class Branch(nn.Module):
    """One attention branch beside the base's own: W_k, W_v over some tokens, normalised to the base's magnitude.

    `N = Attention(Q, W_k c, W_v c)`, `N' = alpha (|Z| N / |N|) + beta`, alpha and beta per channel. The norm runs over the
    tokens and channels of one sample; with `compat`, over the whole batch, as the released code has it.

    Args:
        text_width: d.
        width: h, of the layer.
        normalise: whether |Z| / |N| is applied; without it N' = alpha N + beta.
        scale: whether alpha and beta are there and trained.
        compat: the released code's arithmetic.
    """

    def __init__(self, text_width: int, width: int, *, normalise: bool, scale: bool, compat: bool):
        super().__init__()
        self.to_k = nn.Linear(text_width, width, bias=False)
        self.to_v = nn.Linear(text_width, width, bias=False)
        self.normalise, self.compat = normalise, compat
        if scale:
            self.alpha = nn.Parameter(torch.ones(width))
            self.beta = nn.Parameter(torch.zeros(width))
        else:
            self.register_parameter("alpha", None)
            self.register_parameter("beta", None)

    def forward(self, query: Tensor, z: Tensor, tokens: Tensor, heads: int) -> Tensor:
        """Args: query (B, heads, P, h / heads); z (B, P, h), the base's attention; tokens (B, L, d). Returns (B, P, h)."""
        tokens = tokens.to(self.to_k.weight.dtype)
        n = attend(query, self.to_k(tokens).to(query.dtype), self.to_v(tokens).to(query.dtype), heads)
        if self.normalise:
            n = n * self._ratio(z, n)
        if self.alpha is not None:
            n = self.alpha.to(n.dtype) * n + self.beta.to(n.dtype)
        return n

    def _ratio(self, z: Tensor, n: Tensor) -> Tensor:
        dims = None if self.compat else (1, 2)
        size_z = torch.linalg.vector_norm(z, dim=dims, keepdim=True, dtype=torch.float32)
        size_n = torch.linalg.vector_norm(n, dim=dims, keepdim=True, dtype=torch.float32)
        if self.compat:
            return (size_z / size_n).to(n.dtype)
        ratio = torch.where(size_n > EPSILON, size_z / size_n.clamp(min=EPSILON), 0.0)  # no gradient of 1 / EPSILON either
        return ratio.to(n.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention. query (B, heads, P, c), key and value (B, L, heads c) -> (B, P, heads c)."""
    b, _, p, c = query.shape
    key, value = (part.view(b, -1, heads, c).transpose(1, 2) for part in (key, value))
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and mask is None:
        scores = (query * c**-0.5) @ key.transpose(-1, -2)  # half the time of the fused kernel there, backward included
        z = scores.softmax(-1) @ value
    else:
        z = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return z.transpose(1, 2).reshape(b, p, heads * c)


class SUNCrossAttention:
    """Processor of one cross-attention layer: `out = W_out(Z - N' + P')`. Without `sun` in the call it is the base's own
    processor.

    Args:
        base: the processor that was there.
        negative, positive: the branches; a branch that is None is left out.
    """

    def __init__(self, base: Any, negative: Branch | None, positive: Branch | None):
        self.base, self.negative, self.positive = base, negative, positive

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        sun: BranchInputs | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if sun is None:
            return self.base(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **kwargs)
        assert encoder_hidden_states is not None, "cross-attention needs a prompt"
        heads, b = attn.heads, len(hidden_states)
        query = attn.to_q(hidden_states)
        query = query.view(b, -1, heads, query.shape[-1] // heads).transpose(1, 2)
        key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, encoder_hidden_states.shape[1], b)
            attention_mask = attention_mask.view(b, heads, -1, attention_mask.shape[-1])
        z = attend(query, key, value, heads, attention_mask)
        offset = torch.zeros_like(z)
        if self.negative is not None:
            offset = offset - self.negative(query, z, sun.negative, heads)
        if self.positive is not None:
            offset = offset + self.positive(query, z, encoder_hidden_states, heads)
        if sun.gain is not None:
            offset = offset * sun.gain.to(offset.dtype).view(-1, 1, 1)
        out = attn.to_out[1](attn.to_out[0](z + offset))
        return out / attn.rescale_output_factor


class UntouchedAttention:
    """Processor of a self-attention layer: takes `sun` and leaves it aside, since diffusers hands the same arguments to
    all layers and warns of those that a processor does not name."""

    def __init__(self, base: Any):
        self.base = base

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        sun: BranchInputs | None = None,
        **kwargs: Any,
    ) -> Tensor:
        return self.base(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **kwargs)
