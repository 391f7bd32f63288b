"""SUN steered by the guidance scale w at inference (ours; arXiv 2312.08887 bakes the strength in)."""

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sunlab.adapters.attention import BranchInputs, SUNCrossAttention
from sunlab.adapters.base import ADAPTERS, Adapter
from sunlab.adapters.sun import SUN
from sunlab.errors import ConfigError
from sunlab.types import Conditioning

NAME = "guidance_saturation"


@ADAPTERS.register("sun_w")
class SUNW(Adapter):
    """SUN whose offset grows with the guidance scale: `out = W_out(Z + g(w) (P' - N'))`, g(1) = 0; one number at sampling.

    Guidance is e_pos + (w - 1) (e_pos - e_neg): no offset at w = 1, and to first order one that is linear in w - 1. In
    attention, where the offset passes through normalised layers, it has to saturate: g(w) = (w - 1) / (1 + rho (w - 1)) with
    one learnable rho > 0 a layer, which rises with w for every rho; alpha, per channel, is its scale. Train it over a range,
    `teacher.guidance: [low, high]`. At w = 1 the adapter is off, so it then reduces no steps either.

    Args:
        extra_positive, negative, normalise, scale, init, compat: see `SUN`.
        saturation: the initial rho; with 1, g(w) = (w - 1) / w.

    Raises:
        ConfigError: a saturation that is not positive, and what `SUN` refuses.
    """

    steered = True  # whoever draws with it: the guidance scale has an effect

    def __init__(
        self,
        *,
        extra_positive: bool = True,
        negative: bool = True,
        normalise: bool = True,
        scale: bool = True,
        init: Literal["copy", "identity"] = "copy",
        compat: bool = False,
        saturation: float = 1.0,
    ):
        super().__init__()
        if saturation <= 0:
            raise ConfigError(f"adapter.saturation must be positive, got {saturation}")
        self.sun = SUN(
            extra_positive=extra_positive, negative=negative, normalise=normalise, scale=scale, init=init, compat=compat
        )
        self.spec = {**self.sun.spec, "name": "sun_w", "saturation": saturation}
        self.saturation = saturation
        self.curves = nn.ParameterDict()
        self._unet: Any = None

    def attach(self, unet: nn.Module) -> None:
        self.sun.attach(unet)
        object.__setattr__(self, "_unet", unet)  # not a submodule: the adapter does not own the U-Net
        processors = dict(self._unet.attn_processors)
        for name, processor in processors.items():
            if not isinstance(processor, SUNCrossAttention):
                continue
            path = name.removesuffix(".processor")
            if (key := path.replace(".", "/")) not in self.curves:
                attn: Any = unet.get_submodule(path)
                initial = torch.tensor([math.log(math.expm1(self.saturation))], device=attn.to_k.weight.device)
                self.curves[key] = nn.Parameter(initial)
            processors[name] = SteeredAttention(processor, self.curves[key])
        self._unet.set_attn_processor(processors)

    def detach(self) -> None:
        if self._unet is not None:
            now = self._unet.attn_processors
            self._unet.set_attn_processor({n: p.sun if isinstance(p, SteeredAttention) else p for n, p in now.items()})
            object.__setattr__(self, "_unet", None)
            self.sun.detach()

    def inputs(self, positive: Conditioning, negative: Conditioning, guidance: Tensor) -> dict[str, Any]:
        given = self.sun.inputs(positive, negative, guidance)
        steered = replace(given["cross_attention_kwargs"]["sun"], gain=guidance - 1)
        return {**given, "cross_attention_kwargs": {"sun": steered}}

    def tensors(self) -> dict[str, Tensor]:
        curves = {f"{key.replace('/', '.')}.{NAME}": rho for key, rho in self.curves.items()}
        return {**self.sun.tensors(), **curves}


class SteeredAttention:
    """Processor of one cross-attention layer: SUN's, its gain w - 1 bent into g(w).

    Args:
        sun: SUN's processor.
        curve: softplus^-1 of rho (1,).
    """

    def __init__(self, sun: SUNCrossAttention, curve: Tensor):
        self.sun, self.curve = sun, curve

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        sun: BranchInputs | None = None,
        ip_adapter_masks: Any = None,  # diffusers hands on what a processor names, and drops the rest
        **kwargs: Any,
    ) -> Tensor:
        kwargs["ip_adapter_masks"] = ip_adapter_masks
        if sun is not None and sun.gain is not None:
            sun = replace(sun, gain=bent(sun.gain, self.curve))
        return self.sun(attn, hidden_states, encoder_hidden_states, attention_mask, temb, sun=sun, **kwargs)


def bent(excess: Tensor, curve: Tensor) -> Tensor:
    """g = (w - 1) / (1 + rho (w - 1)), rho = softplus(curve) (1,), of the excess w - 1 (B,) -> (B,)."""
    return excess / (1 + softplus(curve) * excess)
