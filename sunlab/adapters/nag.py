"""Normalised attention guidance (NAG, arXiv 2505.21179)."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from sunlab.adapters.attention import EPSILON, PLAIN, BranchInputs, UntouchedAttention, attend, hand
from sunlab.adapters.base import ADAPTERS, Adapter
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
        self._unet: Any = None
        self._found: dict[str, Any] = {}

    def attach(self, unet: nn.Module) -> None:
        if self._unet is not None:
            raise ConfigError("this adapter is plugged in already; detach it first")
        if self.inner is not None:
            self.inner.attach(unet)
        network: Any = unet
        object.__setattr__(self, "_unet", unet)  # not a submodule: the adapter does not own the U-Net
        self._found = dict(network.attn_processors)
        processors: dict[str, Any] = {}
        for name, processor in self._found.items():
            if network.get_submodule(name.removesuffix(".processor")).is_cross_attention:
                processors[name] = NAGCrossAttention(processor, phi=self.phi, tau=self.tau, blend=self.blend)
            else:
                processors[name] = UntouchedAttention(processor)
        network.set_attn_processor(processors)

    def detach(self) -> None:
        if self._unet is not None:
            now = self._unet.attn_processors  # one that somebody has set meanwhile is theirs, and stays
            ours = (NAGCrossAttention, UntouchedAttention)
            self._unet.set_attn_processor({n: self._found[n] if isinstance(p, ours) else p for n, p in now.items()})
            object.__setattr__(self, "_unet", None)
            if self.inner is not None:
                self.inner.detach()

    def switch(self, on: bool) -> None:
        if self.inner is not None:
            self.inner.switch(on)

    def inputs(self, positive: Conditioning, negative: Conditioning, guidance: Tensor) -> dict[str, Any]:
        given = {} if self.inner is None else self.inner.inputs(positive, negative, guidance)
        attention = {"sun": BranchInputs(negative.tokens), **given.get("cross_attention_kwargs", {})}
        return {**given, "cross_attention_kwargs": attention}

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.inner is None else self.inner.tensors()


class NAGCrossAttention:
    """Processor of one cross-attention layer. Over plain attention it is `W_out(Z_nag)`; over a processor with something of
    its own before W_out (SUN, an IP-Adapter), that one's output plus `W_out(Z_nag - Z_pos)`, W_out being linear. Without
    `sun` in the call it is the processor below.

    Args:
        base: the processor that was there.
        phi, tau, blend: see `NAG`.
    """

    def __init__(self, base: Any, *, phi: float, tau: float, blend: float):
        self.base, self.phi, self.tau, self.blend = base, phi, tau, blend
        self.plain = type(base).__name__ in PLAIN
        self.takes_sun = "sun" in signature(type(base).__call__).parameters

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
        if ip_adapter_masks is not None:
            kwargs["ip_adapter_masks"] = ip_adapter_masks
        if sun is None:
            return hand(self.base, attn, hidden_states, encoder_hidden_states, attention_mask, temb, kwargs)
        tokens = encoder_hidden_states[0] if isinstance(encoder_hidden_states, tuple) else encoder_hidden_states
        z, offset = self._attend(attn, hidden_states, tokens, attention_mask, sun.negative.to(tokens.dtype))
        w_out = attn.to_out[0]
        if self.plain:
            return attn.to_out[1](w_out(z + offset)) / attn.rescale_output_factor
        if self.takes_sun:
            kwargs["sun"] = sun
        out = hand(self.base, attn, hidden_states, encoder_hidden_states, attention_mask, temb, kwargs)
        return out + (w_out(offset) - w_out(torch.zeros_like(offset[:, :1]))) / attn.rescale_output_factor

    def _attend(
        self, attn: Any, hidden: Tensor, tokens: Tensor, mask: Tensor | None, negative: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Z_pos and Z_nag - Z_pos, both (B, P, h)."""
        heads, b = attn.heads, len(hidden)
        query = attn.to_q(hidden)
        query = query.view(b, -1, heads, query.shape[-1] // heads).transpose(1, 2)
        if mask is not None:
            mask = attn.prepare_attention_mask(mask, tokens.shape[1], b)
            mask = mask.view(b, heads, -1, mask.shape[-1])
        z_pos = attend(query, attn.to_k(tokens), attn.to_v(tokens), heads, mask)
        z_neg = attend(query, attn.to_k(negative), attn.to_v(negative), heads)
        return z_pos, normalised_guidance(z_pos, z_neg, phi=self.phi, tau=self.tau, blend=self.blend) - z_pos


def normalised_guidance(z_pos: Tensor, z_neg: Tensor, *, phi: float, tau: float, blend: float) -> Tensor:
    """a min(R, tau) / R Z~ + (1 - a) Z_pos, Z~ = Z_pos + phi (Z_pos - Z_neg), R = |Z~|_1 / |Z_pos|_1 of each token;
    all (B, P, h)."""
    guided = z_pos + phi * (z_pos - z_neg)
    size_pos, size = (z.abs().sum(-1, keepdim=True, dtype=torch.float32) for z in (z_pos, guided))
    shrink = (tau * size_pos / size.clamp(min=EPSILON)).clamp(max=1).to(guided.dtype)
    return blend * shrink * guided + (1 - blend) * z_pos
