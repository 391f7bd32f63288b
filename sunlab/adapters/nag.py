"""Normalised attention guidance (NAG, arXiv 2505.21179)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sunlab.adapters.attention import EPSILON
from sunlab.adapters.base import ADAPTERS, REPLACED, Adapter, unattached
from sunlab.adapters.kernels import attend
from sunlab.adapters.state import PassState
from sunlab.backbones.attention import Adaptable, Attachment, AttentionCall, TextAttention, TokenContext
from sunlab.errors import ConfigError
from sunlab.types import Conditioning


@ADAPTERS.register("nag")
class NAG(Adapter):
    """Training-free negative guidance in text attention, by itself or on top of another adapter.

    arXiv 2505.21179, with the base's own keys and values: Z~ = Z_pos + phi (Z_pos - Z_neg), shrunk where its L1
    norm, by token, exceeds tau times that of Z_pos, and blended: out = W_out(a Z^ + (1 - a) Z_pos). It does not look at the
    guidance scale w.

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
        super().__init__()
        if phi < 0 or tau <= 0 or not 0 <= blend <= 1:
            raise ConfigError(f"adapter: nag needs phi >= 0, tau > 0 and blend in [0, 1], got {phi}, {tau} and {blend}")
        self.phi, self.tau, self.blend = phi, tau, blend
        self.inner: Adapter | None = None if inner is None else ADAPTERS.build(inner, key="adapter.inner")
        self.steered = self.inner is not None and self.inner.steered
        self.changes_weights = self.inner is not None and self.inner.changes_weights
        self.scales = frozenset() if self.inner is None else self.inner.scales
        below = None if self.inner is None else dict(self.inner.spec)
        self.spec = {"name": "nag", "phi": phi, "tau": tau, "blend": blend, "inner": below}
        self._attachment: Attachment | None = None
        self._context: Callable[[Conditioning], TokenContext] = unattached

    def attach(self, backbone: Adaptable) -> None:
        if self._attachment is not None:
            raise ConfigError("this adapter is attached already; detach it first")
        if self.inner is not None:
            self.inner.attach(backbone)
        try:
            self._attachment = backbone.extend({p: self._extension(p, a) for p, a in backbone.text_attention().items()})
        except ConfigError:
            if self.inner is not None:
                self.inner.detach()
            raise
        self._context = backbone.context

    def detach(self) -> None:
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment, self._context = None, unattached
            if self.inner is not None:
                self.inner.detach()

    def check_attached(self) -> None:
        if self._attachment is not None and not self._attachment.intact():
            raise ConfigError(REPLACED)
        if self.inner is not None:
            self.inner.check_attached()

    def state(self, positive: Conditioning, negative: Conditioning | None, guidance: Tensor) -> PassState:
        below: PassState | None = None if self.inner is None else self.inner.state(positive, negative, guidance)
        if below is not None and below.negative is not None:
            return below
        own = PassState.of(None if negative is None else self._context(negative))
        if below is None:
            return own
        return replace(below, negative=own.negative, negative_mask=own.negative_mask, cache=own.cache)

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.inner is None else self.inner.tensors()

    def _extension(self, path: str, layer: TextAttention) -> "NAGAttention":
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
        query, layer = call.query(), call.layer
        negative = state.own(call, self, state.negative_tokens(call), query)
        z_pos = attend(query, state.own(call, layer.to_k, call.tokens, query, exact=True), call.mask())
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
