"""Normalised attention guidance (NAG, arXiv 2505.21179)."""

from typing import Any

import torch
from torch import Tensor, nn

from sunlab.adapters.attention import EPSILON, BranchInputs
from sunlab.adapters.base import ADAPTERS, Adapter
from sunlab.adapters.kernels import attend
from sunlab.adapters.processors import BESIDE, PLAIN, Call, Placement, Processor, Untouched, check_composable
from sunlab.errors import ConfigError
from sunlab.types import Conditioning


@ADAPTERS.register("nag")
class NAG(Adapter):
    """Training-free negative guidance in cross-attention, by itself or on top of another adapter.

    arXiv 2505.21179, with the base's own keys and values: Z~ = Z_pos + phi (Z_pos - Z_neg), shrunk where its L1
    norm, by token, exceeds tau times that of Z_pos, and blended: out = W_out(a Z^ + (1 - a) Z_pos). It does not look at the
    guidance scale w.

    Args:
        phi: how far to extrapolate (the authors' code counts phi + 1 as `nag_scale`).
        tau: the largest ratio of norms.
        blend: a, the share of the guided attention.
        inner: the adapter below, a name or a mapping with `name` and parameters; null: the processors that are there,
            whosever they are. Its tensors are this adapter's.

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
        below = None if self.inner is None else dict(self.inner.spec)
        self.spec = {"name": "nag", "phi": phi, "tau": tau, "blend": blend, "inner": below}
        self._placement: Placement | None = None

    def attach(self, unet: nn.Module) -> None:
        if self._placement is not None:
            raise ConfigError("this adapter is plugged in already; detach it first")
        if self.inner is not None:
            self.inner.attach(unet)
        try:
            self._placement = Placement(unet, self._processor)
        except ConfigError:
            if self.inner is not None:
                self.inner.detach()
            raise

    def detach(self) -> None:
        if self._placement is not None:
            self._placement.remove()
            self._placement = None
            if self.inner is not None:
                self.inner.detach()

    def _processor(self, path: str, attn: Any, found: Any) -> Processor:
        if not attn.is_cross_attention:
            return Untouched(found)
        check_composable(path, found, known=PLAIN + BESIDE, adapter="NAG")
        return NAGCrossAttention(found, phi=self.phi, tau=self.tau, blend=self.blend)

    def switch(self, on: bool) -> None:
        if self.inner is not None:
            self.inner.switch(on)

    def state(self, positive: Conditioning, negative: Conditioning, guidance: Tensor) -> Any:
        inner = None if self.inner is None else self.inner.state(positive, negative, guidance)
        return BranchInputs.of(negative.tokens) if inner is None else inner

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.inner is None else self.inner.tensors()


class NAGCrossAttention(Processor):
    """Of one cross-attention layer. Over plain attention it is `W_out(Z_nag)`; over a processor with something of its own
    before W_out (SUN, an IP-Adapter), that one's output plus `W_out(Z_nag - Z_pos)`, W_out being linear.

    Args:
        base: the processor that was there.
        phi, tau, blend: see `NAG`.
    """

    def __init__(self, base: Any, *, phi: float, tau: float, blend: float):
        super().__init__(base)
        self.phi, self.tau, self.blend = phi, tau, blend
        self.plain = type(base).__name__ in PLAIN

    def respond(self, call: Call, sun: BranchInputs) -> Tensor:
        attn, query = call.attn, call.query()
        negative = sun.projected(self, sun.negative, attn.to_k, attn.to_v, query)
        positive = sun.projected(attn, call.tokens, attn.to_k, attn.to_v, query, exact=True)
        z_pos = attend(query, positive, call.prepared_mask())
        z_nag = normalised_guidance(z_pos, attend(query, negative), phi=self.phi, tau=self.tau, blend=self.blend)
        return call.out(z_nag) if self.plain else self.below(call, sun) + call.out_offset(z_nag - z_pos)


def normalised_guidance(z_pos: Tensor, z_neg: Tensor, *, phi: float, tau: float, blend: float) -> Tensor:
    """a min(R, tau) / R Z~ + (1 - a) Z_pos, Z~ = Z_pos + phi (Z_pos - Z_neg), R = |Z~|_1 / |Z_pos|_1 of each token;
    all (B, P, h)."""
    guided = z_pos + phi * (z_pos - z_neg)
    size_pos, size = (z.abs().sum(-1, keepdim=True, dtype=torch.float32) for z in (z_pos, guided))
    shrink = (tau * size_pos / size.clamp(min=EPSILON)).clamp(max=1).to(guided.dtype)
    return blend * shrink * guided + (1 - blend) * z_pos
