"""SpeedUpNet (arXiv 2312.08887)."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sunlab.adapters.attention import Branch, SUNAttention
from sunlab.adapters.base import ADAPTERS, REPLACED, Adapter, unattached
from sunlab.adapters.state import PassState
from sunlab.backbones.attention import Adaptable, Attachment, TextAttention, TokenContext
from sunlab.backbones.weights import bias_of, dense
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

    `out = W_out(Z - N' + P')` in every text-attention layer; see `Branch` for N' and P'.

    Args:
        extra_positive: the optional branch P' ("add_pos").
        negative: the branch N'; without it negative prompts have no effect (an ablation).
        normalise: attention normalisation |Z| / |N|.
        scale: per-channel alpha and beta.
        init: `copy`, projections copied from the layer's own key and value with their biases (out = 2 Z - N' with
            `extra_positive`, near guidance 2 in attention space); `identity`, the same with alpha = 0: the base unchanged to
            the bit.
        compat: the released code's arithmetic, where a picture depends on its batch-mates and zeros give NaN.
    """

    scales = frozenset({"scale"})

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
        self.uses_negative = negative
        self.branches = {"negative": negative, "positive": extra_positive}
        self.options = {"normalise": normalise, "scale": scale, "compat": compat}
        self.init = init
        self.layers = nn.ModuleDict()
        self._attachment: Attachment | None = None
        self._context: Callable[[Conditioning], TokenContext] = unattached
        self._joint = False

    def attach(self, backbone: Adaptable) -> None:
        if self._attachment is not None:
            raise ConfigError("this adapter is attached already; detach it first")
        layers = backbone.text_attention()
        self._attachment = backbone.extend({path: self._extension(path, layer) for path, layer in layers.items()})
        self._context, self._joint = backbone.context, any(layer.joint for layer in layers.values())

    def detach(self) -> None:
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment, self._context = None, unattached

    def check_attached(self) -> None:
        if self._attachment is not None and not self._attachment.intact():
            raise ConfigError(REPLACED)

    def state(self, positive: Conditioning, negative: Conditioning | None, guidance: Tensor) -> PassState:
        return PassState.of(None if negative is None else self._context(negative), positive, joint=self._joint)

    def tensors(self) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for layer, branches in self.layers.items():
            for name, parameter in branches.named_parameters():
                weight = name.replace(".bias", ".weight")
                end = ".bias" if name.endswith(".bias") else ".weight"
                named[f"{_path(layer)}.{NAMES[weight].replace('.weight', end)}"] = parameter
        return named

    def _extension(self, path: str, layer: TextAttention) -> SUNAttention:
        if layer.extended:
            raise ConfigError(f"another adapter of sunlab is attached to this network ({path}); detach it first")
        if (key := _key(path)) not in self.layers:
            self.layers[key] = self._branches(layer)
        branches: Any = self.layers[key]
        negative, positive = (branches[n] if n in branches else None for n in ("negative", "positive"))  # noqa: SIM401
        return SUNAttention(negative, positive)

    def _branches(self, layer: TextAttention) -> nn.ModuleDict:
        key, value = dense(layer.to_k), dense(layer.to_v)
        biases = bias_of(layer.to_k), bias_of(layer.to_v)
        branches = nn.ModuleDict()
        for name, wanted in self.branches.items():
            if not wanted:
                continue
            with torch.device(key.device):
                bias = (biases[0] is not None, biases[1] is not None)
                branch = Branch(layer.text_width, layer.width, **self.options, bias=bias)
            with torch.no_grad():
                branch.to_k.weight.copy_(key)
                branch.to_v.weight.copy_(value)  # never zero: the branch is normalised, its scale would be lost
                for projection, bias_there in zip((branch.to_k, branch.to_v), biases, strict=True):
                    if bias_there is not None:
                        projection.bias.copy_(bias_there)
                if self.init == "identity":
                    branch.alpha.zero_()
            branches[name] = branch
        return branches


def _key(path: str) -> str:
    return path.replace(".", "/")


def _path(key: str) -> str:
    return key.replace("/", ".")
