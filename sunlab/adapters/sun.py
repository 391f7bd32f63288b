"""SpeedUpNet (arXiv 2312.08887)."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sunlab.adapters.attention import Branch, BranchInputs, SUNCrossAttention
from sunlab.adapters.base import ADAPTERS, Adapter
from sunlab.adapters.processors import BESIDE, PLAIN, Placement, Processor, Untouched, check_composable
from sunlab.errors import ConfigError
from sunlab.types import Conditioning

NAMES = {"negative.to_k.weight": "to_k_neg.weight", "negative.to_v.weight": "to_v_neg.weight",
         "negative.alpha": "to_k_neg_alpha", "negative.beta": "to_k_neg_beta",
         "positive.to_k.weight": "to_k_extra_pos.weight", "positive.to_v.weight": "to_v_extra_pos.weight",
         "positive.alpha": "to_k_extra_pos_alpha", "positive.beta": "to_k_extra_pos_beta"}  # fmt: skip
"""Our parameter names in a layer -> the published ones (which call the scale of the whole branch `to_k_..._alpha`)."""


@ADAPTERS.register("sun")
class SUN(Adapter):
    """SpeedUpNet: negative (and extra positive) attention branches, one pass in place of guidance.

    `out = W_out(Z - N' + P')` in every cross-attention layer; see `Branch` for N' and P'.

    Args:
        extra_positive: the optional branch P' ("add_pos").
        negative: the branch N'; without it the adapter is blind to negative prompts (an ablation).
        normalise: attention normalisation |Z| / |N|.
        scale: per-channel alpha and beta.
        init: `copy`, projections copied from the layer's own key and value (out = 2 Z - N' with `extra_positive`, near
            guidance 2 in attention space); `identity`, the same with alpha = 0: the base unchanged to the bit.
        compat: the released code's arithmetic, where a picture depends on its batch-mates and zeros give NaN.
    """

    def __init__(
        self,
        *,
        extra_positive: bool = True,
        negative: bool = True,
        normalise: bool = True,
        scale: bool = True,
        init: Literal["copy", "identity"] = "copy",
        compat: bool = False,
    ):
        super().__init__()
        if init == "identity" and not scale:
            raise ConfigError("adapter.init: identity sets alpha = 0, so it needs adapter.scale: true")
        if not (extra_positive or negative):
            raise ConfigError("adapter: sun without both branches is the base; keep `negative` or `extra_positive`")
        self.spec = {
            "name": "sun", "extra_positive": extra_positive, "negative": negative, "normalise": normalise,
            "scale": scale, "init": init, "compat": compat,
        }  # fmt: skip
        self.branches = {"negative": negative, "positive": extra_positive}
        self.options = {"normalise": normalise, "scale": scale, "compat": compat}
        self.init = init
        self.layers = nn.ModuleDict()
        self._placement: Placement | None = None

    def attach(self, unet: nn.Module) -> None:
        if self._placement is not None:
            raise ConfigError("this adapter is plugged in already; detach it first")
        self._placement = Placement(unet, self._processor)

    def detach(self) -> None:
        if self._placement is not None:
            self._placement.remove()
            self._placement = None

    def state(self, positive: Conditioning, negative: Conditioning, guidance: Tensor) -> Any:
        return BranchInputs.of(negative.tokens)

    def tensors(self) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for layer, branches in self.layers.items():
            for name, parameter in branches.named_parameters():
                named[f"{_path(layer)}.{NAMES[name]}"] = parameter
        return named

    def _processor(self, path: str, attn: Any, found: Any) -> Processor:
        if isinstance(found, Processor):
            raise ConfigError(f"another adapter of sunlab is plugged into this U-Net ({path}); detach it first")
        if not attn.is_cross_attention:
            return Untouched(found)
        check_composable(path, found, known=PLAIN + BESIDE, adapter="SUN")
        if (layer := _key(path)) not in self.layers:
            self.layers[layer] = self._layer(attn)
        branches = self.layers[layer]
        negative, positive = (branches[n] if n in branches else None for n in ("negative", "positive"))  # noqa: SIM401
        return SUNCrossAttention(found, negative, positive)

    def _layer(self, attn: Any) -> nn.ModuleDict:
        key, value = attn.to_k.weight, attn.to_v.weight
        layer = nn.ModuleDict()
        for name, wanted in self.branches.items():
            if not wanted:
                continue
            with torch.device(key.device):
                branch = Branch(key.shape[1], key.shape[0], **self.options)
            with torch.no_grad():
                branch.to_k.weight.copy_(key)
                branch.to_v.weight.copy_(value)  # never zero: the branch is normalised, its scale would be lost
                if self.init == "identity":
                    branch.alpha.zero_()
            layer[name] = branch
        return layer


def _key(path: str) -> str:
    return path.replace(".", "/")


def _path(key: str) -> str:
    return key.replace("/", ".")
