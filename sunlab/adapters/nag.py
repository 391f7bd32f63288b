"""Normalised attention guidance (NAG, arXiv 2505.21179)."""

from typing import Any

import torch
from torch import Tensor

from sunlab.adapters.base import ADAPTERS
from sunlab.adapters.kernels import EPSILON, attend
from sunlab.adapters.stacked import Stacked
from sunlab.adapters.state import PassState
from sunlab.backbones.attention import AttentionCall, TextAttention
from sunlab.errors import ConfigError


@ADAPTERS.register("nag")
class NAG(Stacked):
    """Training-free negative guidance in text attention, by itself or on top of another adapter.

    arXiv 2505.21179, with the base's own keys and values: Z~ = Z_pos + phi (Z_pos - Z_neg), shrunk where its L1
    norm, by token, exceeds tau times that of Z_pos, and blended: out = W_out(a Z^ + (1 - a) Z_pos). It does not look at the
    guidance scale w. In joint attention the negative prompt runs through the blocks as a second stream of text, as in the
    authors' code; Z_pos and Z_neg are the image's attention to itself and to either prompt.

    Args:
        phi: how far to extrapolate (the authors' code counts phi + 1 as `nag_scale`).
        tau: the largest ratio of norms.
        blend: a, the share of the guided attention.
        inner: the adapter below, a name or a mapping with `name` and parameters; null: whatever the layers run. Its tensors
            are this adapter's.

    Raises:
        ConfigError: parameters out of range.
    """

    def __init__(self, *, phi: float = 2.0, tau: float = 2.5, blend: float = 0.5, inner: str | dict[str, Any] | None = None):
        if phi < 0 or tau <= 0 or not 0 <= blend <= 1:
            raise ConfigError(f"adapter: nag needs phi >= 0, tau > 0 and blend in [0, 1], got {phi}, {tau} and {blend}")
        super().__init__(inner, name="nag", phi=phi, tau=tau, blend=blend)
        self.phi, self.tau, self.blend = phi, tau, blend

    def extension(self, path: str, layer: TextAttention) -> "NAGAttention":
        return NAGAttention(phi=self.phi, tau=self.tau, blend=self.blend)


class NAGAttention:
    """Extension of one text-attention layer. Over plain attention it is `W_out(Z_nag)`; over a layer with a term of its own
    before W_out (SUN, an IP-Adapter), that one's output plus `W_out(Z_nag - Z_pos)`, W_out being linear.

    Args:
        phi, tau, blend: see `NAG`.
    """

    def __init__(self, *, phi: float, tau: float, blend: float):
        self.phi, self.tau, self.blend = phi, tau, blend

    def __call__(self, call: AttentionCall, state: PassState) -> Tensor:
        if not state.in_attention:
            return call.below(state)
        query, layer = call.query(), call.layer
        z_pos = state.attention(call, query)
        if layer.joint:
            z_neg = call.attention_to_second()
        else:
            negative = state.keys_values(self, layer, state.negative_tokens(call), query)
            z_neg = attend(query, negative, state.negative_bias(query))
        z_nag = normalised_guidance(z_pos, z_neg, phi=self.phi, tau=self.tau, blend=self.blend)
        return layer.out(z_nag) if call.plain else call.below(state) + layer.out_offset(z_nag - z_pos)


def normalised_guidance(z_pos: Tensor, z_neg: Tensor, *, phi: float, tau: float, blend: float) -> Tensor:
    """a min(R, tau) / R Z~ + (1 - a) Z_pos, Z~ = Z_pos + phi (Z_pos - Z_neg), R = |Z~|_1 / |Z_pos|_1 of each token;
    all (B, P, h)."""
    guided = z_pos + phi * (z_pos - z_neg)
    size_pos, size = (z.abs().sum(-1, keepdim=True, dtype=_wide(z)) for z in (z_pos, guided))
    shrink = (tau * size_pos / size.clamp(min=EPSILON)).clamp(max=1).to(guided.dtype)
    return blend * shrink * guided + (1 - blend) * z_pos


def _wide(z: Tensor) -> torch.dtype:
    return torch.float32 if z.dtype in (torch.float16, torch.bfloat16) else z.dtype
