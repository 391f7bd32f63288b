"""SpeedUpNet (arXiv 2312.08887)."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from sunlab.adapters.attention import (
    BESIDE,
    PLAIN,
    Branch,
    BranchInputs,
    PromptCache,
    SUNCrossAttention,
    UntouchedAttention,
)
from sunlab.adapters.base import ADAPTERS, Adapter
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
        self._unet: Any = None
        self._found: dict[str, Any] = {}

    def attach(self, unet: nn.Module) -> None:
        if self._unet is not None:
            raise ConfigError("this adapter is plugged in already; detach it first")
        self._found = dict(cast(Any, unet).attn_processors)
        foreign = [n for n, p in self._found.items() if isinstance(p, (SUNCrossAttention, UntouchedAttention))]
        if foreign:
            raise ConfigError(f"another SUN adapter is plugged into this U-Net ({foreign[0]}); detach it first")
        processors: dict[str, Any] = {}
        for name, processor in self._found.items():
            path = name.removesuffix(".processor")
            attn = unet.get_submodule(path)
            if not attn.is_cross_attention:
                processors[name] = UntouchedAttention(processor)
                continue
            if (layer := _key(path)) not in self.layers:
                self.layers[layer] = self._layer(attn)
            if type(processor).__name__ not in PLAIN + BESIDE:
                raise ConfigError(
                    f"{name} runs {type(processor).__name__}, which SUN cannot be composed with; take it out first, for "
                    "instance with unet.set_default_attn_processor()"
                )
            branches = self.layers[layer]
            processors[name] = SUNCrossAttention(
                processor,
                _branch(branches, "negative"),
                _branch(branches, "positive"),
            )
        unet.set_attn_processor(processors)
        object.__setattr__(self, "_unet", unet)  # not a submodule: the adapter does not own the U-Net

    def detach(self) -> None:
        if self._unet is not None:
            now = self._unet.attn_processors  # one that somebody has set meanwhile is theirs, and stays
            ours = (SUNCrossAttention, UntouchedAttention)
            self._unet.set_attn_processor({n: self._found[n] if isinstance(p, ours) else p for n, p in now.items()})
            object.__setattr__(self, "_unet", None)

    def inputs(self, positive: Conditioning, negative: Conditioning, guidance: Tensor) -> dict[str, Any]:
        cache = None if torch.is_grad_enabled() else PromptCache()
        return {"cross_attention_kwargs": {"sun": BranchInputs(negative.tokens, cache=cache)}}

    def tensors(self) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for layer, branches in self.layers.items():
            for name, parameter in branches.named_parameters():
                named[f"{_path(layer)}.{NAMES[name]}"] = parameter
        return named

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


def _branch(layer: Any, name: str) -> Any:
    return layer[name] if name in layer else None  # noqa: SIM401 - ModuleDict has no get


def _key(path: str) -> str:
    return path.replace(".", "/")


def _path(key: str) -> str:
    return key.replace("/", ".")
