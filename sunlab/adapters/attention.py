"""diffusers' attention processors with SUN's extra branches (arXiv 2312.08887; formulas as the released code computes
them, see `Branch`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

EPSILON = 1e-12  # below it a norm counts as zero: an all-zero branch stays zero instead of NaN
PLAIN = ("AttnProcessor", "AttnProcessor2_0", "FusedAttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor",
         "AttnProcessorNPU", "XLAFlashAttnProcessor2_0")  # fmt: skip
"""diffusers' processors of plain attention, which differ in kernels alone: ours stands in for them."""
BESIDE = ("IPAdapterAttnProcessor", "IPAdapterAttnProcessor2_0", "IPAdapterXFormersAttnProcessor")
"""Those that add something of their own before W_out, which is linear: ours adds its offset to their output."""


class PromptCache:
    """Keys and values of one generation's prompts: they do not change over its steps. Known by the identity of the token
    tensors; the weights must not change between the steps (a LoRA's scale, for one)."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, int, tuple[Tensor, Tensor]]] = {}

    def get(self, owner: nn.Module, tokens: Tensor, compute: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """What `owner` computed of these very tokens before, or computes now: one pair is kept for each owner."""
        version = 0 if tokens.is_inference() else tokens._version
        kept = self._kept.get(id(owner))
        if kept is None or kept[0] is not tokens or kept[1] != version:
            kept = self._kept[id(owner)] = tokens, version, compute()
        return kept[2]


@dataclass(frozen=True)
class BranchInputs:
    """What a pass with the adapter on hands to every cross-attention layer.

    Attributes:
        negative: the negative prompt's tokens (B, L, d).
        gain: factor on the branches (B,), or None for 1: how a guidance-conditioned adapter is steered.
        cache: for the passes of one generation; not used where gradients are wanted.
    """

    negative: Tensor
    gain: Tensor | None = None
    cache: PromptCache | None = None

    def projected(
        self, owner: nn.Module, tokens: Tensor, compute: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (B, L, h) of the tokens (B, L, d), from the cache where there is one."""
        if self.cache is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute()
        return self.cache.get(owner, tokens, compute)


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

    def forward(self, query: Tensor, z: Tensor, tokens: Tensor, heads: int, inputs: BranchInputs) -> Tensor:
        """Args: query (B, heads, P, h / heads); z (B, P, h), the base's attention; tokens (B, L, d). Returns (B, P, h)."""
        key, value = inputs.projected(self, tokens, lambda: self._project(tokens, query.dtype))
        n = attend(query, key, value, heads)
        if self.normalise:
            n = n * self._ratio(z, n)
        if self.alpha is not None:
            n = self.alpha.to(n.dtype) * n + self.beta.to(n.dtype)
        return n

    def _project(self, tokens: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        tokens = tokens.to(self.to_k.weight.dtype)
        return self.to_k(tokens).to(dtype), self.to_v(tokens).to(dtype)

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


def hand(base: Any, attn: Any, hidden: Tensor, tokens: Any, mask: Tensor | None, temb: Tensor | None, more: Any) -> Tensor:
    """The call handed on to the processor that was there. Not all of diffusers' take `temb`."""
    return base(attn, hidden, tokens, mask, **({} if temb is None else {"temb": temb}), **more)


class SUNCrossAttention:
    """Processor of one cross-attention layer: `out = W_out(Z - N' + P')`. Without `sun` in the call it is the base's own
    processor. Beside an IP-Adapter, `out` is the IP-Adapter's own plus `W_out(P' - N')`.

    Args:
        base: the processor that was there.
        negative, positive: the branches; a branch that is None is left out.
    """

    def __init__(self, base: Any, negative: Branch | None, positive: Branch | None):
        self.base, self.negative, self.positive = base, negative, positive
        self.beside = type(base).__name__ in BESIDE

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        sun: BranchInputs | None = None,
        ip_adapter_masks: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        if ip_adapter_masks is not None and self.beside:
            kwargs["ip_adapter_masks"] = ip_adapter_masks
        if sun is None:
            return hand(self.base, attn, hidden_states, encoder_hidden_states, attention_mask, temb, kwargs)
        assert encoder_hidden_states is not None, "cross-attention needs a prompt"
        tokens = encoder_hidden_states[0] if isinstance(encoder_hidden_states, tuple) else encoder_hidden_states
        z, offset = self._attend(attn, hidden_states, tokens, attention_mask, sun)
        w_out = attn.to_out[0]
        if self.beside:
            out = hand(self.base, attn, hidden_states, encoder_hidden_states, attention_mask, temb, kwargs)
            return out + (w_out(offset) - w_out(torch.zeros_like(offset[:, :1]))) / attn.rescale_output_factor
        return attn.to_out[1](w_out(z + offset)) / attn.rescale_output_factor

    def _attend(
        self, attn: Any, hidden: Tensor, tokens: Tensor, mask: Tensor | None, sun: BranchInputs
    ) -> tuple[Tensor, Tensor]:
        """Z and the branches' offset P' - N', both (B, P, h)."""
        heads, b = attn.heads, len(hidden)
        query = attn.to_q(hidden)
        query = query.view(b, -1, heads, query.shape[-1] // heads).transpose(1, 2)
        key, value = sun.projected(attn, tokens, lambda: (attn.to_k(tokens), attn.to_v(tokens)))
        if mask is not None:
            mask = attn.prepare_attention_mask(mask, tokens.shape[1], b)
            mask = mask.view(b, heads, -1, mask.shape[-1])
        z = attend(query, key, value, heads, mask)
        offset = torch.zeros_like(z)
        if self.negative is not None:
            offset = offset - self.negative(query, z, sun.negative, heads, sun)
        if self.positive is not None:
            offset = offset + self.positive(query, z, tokens, heads, sun)
        if sun.gain is not None:
            offset = offset * sun.gain.to(offset.dtype).view(-1, 1, 1)
        return z, offset


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
        return hand(self.base, attn, hidden_states, encoder_hidden_states, attention_mask, temb, kwargs)
