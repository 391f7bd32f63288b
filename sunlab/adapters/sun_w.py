"""SUN steered by the guidance scale w at inference (ours; arXiv 2312.08887 bakes the strength in)."""

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from registry import takes_also
from sunlab.adapters.base import ADAPTERS, REPLACED, Adapter
from sunlab.adapters.state import PassState
from sunlab.adapters.sun import SUN
from sunlab.backbones.attention import Adaptable, Attachment, AttentionCall, TextAttention
from sunlab.errors import ConfigError
from sunlab.types import Conditioning

NAME = "guidance_saturation"


@ADAPTERS.register("sun_w")
class SUNW(Adapter):
    """SUN whose offset grows with the guidance scale: `out = W_out(Z + g(w) (P' - N'))`, g(1) = 0; one number at sampling.

    Guidance is e_pos + (w - 1) (e_pos - e_neg): no offset at w = 1, and to first order one that is linear in w - 1. In
    attention, where the offset passes through normalised layers, it has to saturate: g(w) = (w - 1) / (1 + rho (w - 1)) with
    one learnable rho > 0 a layer, which rises with w for every rho; alpha, per channel, is its scale. Train it over a range,
    `teacher.guidance: [low, high]`.

    Args:
        steers: what g(w) scales: the `offset` P' - N' (at w = 1 the adapter is off, and so reduces no steps either), or the
            `negative` branch alone, `W_out(Z + P' - g(w) N')` (at w = 1 the extra positive branch stays).
        extra_positive, negative, normalise, scale, init, compat: see `SUN`.
        saturation: the initial rho; with 1, g(w) = (w - 1) / w.

    Raises:
        ConfigError: a saturation that is not positive, nothing to steer, and what `SUN` refuses.
    """

    steered = True
    scales = frozenset({"scale"})

    @takes_also(SUN)
    def __init__(self, *, saturation: float = 1.0, steers: Literal["negative", "offset"] = "offset", **sun: Any):
        super().__init__()
        if saturation <= 0:
            raise ConfigError(f"adapter.saturation must be positive, got {saturation}")
        self.sun = SUN(**sun)
        if steers == "negative" and not self.sun.branches["negative"]:
            raise ConfigError("adapter.steers: negative steers a branch that adapter.negative: false leaves out")
        self.spec = {**self.sun.spec, "name": "sun_w", "saturation": saturation, "steers": steers}
        self.uses_negative = self.sun.uses_negative
        self.saturation, self.steers = saturation, steers
        self.curves = nn.ParameterDict()
        self._attachment: Attachment | None = None

    def attach(self, backbone: Adaptable) -> None:
        self.sun.attach(backbone)
        self._attachment = backbone.extend({p: self._extension(p, a) for p, a in backbone.text_attention().items()})

    def detach(self) -> None:
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None
            self.sun.detach()

    def check_attached(self) -> None:
        if self._attachment is not None and not self._attachment.intact():
            raise ConfigError(REPLACED)
        self.sun.check_attached()

    def state(self, positive: Conditioning, negative: Conditioning | None, guidance: Tensor) -> PassState:
        excess = guidance - 1
        gain_positive = excess if self.steers == "offset" else None
        return replace(self.sun.state(positive, negative, guidance), gain=excess, gain_positive=gain_positive)

    def tensors(self) -> dict[str, Tensor]:
        curves = {f"{key.replace('/', '.')}.{NAME}": rho for key, rho in self.curves.items()}
        return {**self.sun.tensors(), **curves}

    def _extension(self, path: str, layer: TextAttention) -> "SteeredAttention":
        if (key := path.replace(".", "/")) not in self.curves:
            initial = torch.tensor(
                [math.log(math.expm1(self.saturation))], device=next(self.sun.layers[key].parameters()).device
            )
            self.curves[key] = nn.Parameter(initial)
        return SteeredAttention(self.curves[key])


class SteeredAttention:
    """Extension on top of SUN's: its gain w - 1 bent into g(w).

    Args:
        curve: softplus^-1 of rho (1,).
    """

    def __init__(self, curve: Tensor):
        self.curve = curve

    def __call__(self, call: AttentionCall, state: PassState) -> Tensor:
        gain, gain_positive = (None if w is None else bent(w, self.curve) for w in (state.gain, state.gain_positive))
        return call.below(replace(state, gain=gain, gain_positive=gain_positive))


def bent(excess: Tensor, curve: Tensor) -> Tensor:
    """g = (w - 1) / (1 + rho (w - 1)), rho = softplus(curve) (1,), of the excess w - 1 (B,) -> (B,)."""
    return excess / (1 + softplus(curve) * excess)
