"""SUN's branches (arXiv 2312.08887) as patches of ComfyUI's cross-attention: `out + W_out(P' - N')`, without W_out's bias.

The first patch sees the layer's input and context, the second its output. Both are lists in ComfyUI, so other patches, and
an IP-Adapter in the one slot of `attn2_replace`, act beside them. What a pass computes is kept in its `extra_options`, a
dict of this call; an instance keeps the negative prompt's keys and values alone, until ComfyUI moves the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, softplus

from .adapter import Branch, SUNAdapter
from .errors import DataError
from .layers import Key, Layer
from .negative import Negative

EPSILON = 1e-12  # below it a norm counts as zero


class SUNPatch:
    """Called before a cross-attention layer: `attn2_patch`.

    Args:
        adapter: read from a file.
        layers: each layer with its branches.
        negative: the negative prompt.
        scale: factor on P' - N'.
        guidance: w of an adapter that is steered by it (sun_w).
    """

    def __init__(
        self,
        adapter: SUNAdapter,
        layers: Mapping[Key, tuple[Layer, Mapping[str, Branch]]],
        negative: Negative,
        scale: float,
        guidance: float,
    ):
        self.adapter, self.layers, self.negative = adapter, layers, negative
        self.scale, self.guidance = scale, guidance
        self.slot = f"sunlab {id(self)}"
        self.output = SUNOutputPatch(self)
        self._kept: dict[Any, tuple[Tensor, Tensor]] = {}

    def __call__(self, n: Tensor, context: Tensor, value: Tensor, extra_options: dict[str, Any], **_: Any) -> Any:
        if _key(extra_options) in self.layers:
            extra_options[self.slot] = n, context, value
        return n, context, value

    def to(self, *_: Any, **__: Any) -> "SUNPatch":
        """ComfyUI calls it when it loads and offloads the model; the weights are moved as `models`."""
        self._kept.clear()
        return self

    def models(self) -> list[Any]:
        """What ComfyUI loads beside the model and offloads with it."""
        return [self.adapter.patcher]

    def __deepcopy__(self, memo: dict[int, Any]) -> "SUNPatch":
        return self  # a clone of the model shares weights and patches

    def offset(self, n: Tensor, context: Tensor, value: Tensor, options: Mapping[str, Any], batch: int) -> Tensor | None:
        """scale W_out(P' - N') (R, P, h), without the bias; None where no entry of the negative prompt acts.

        Args:
            n: the layer's input (R, P, h).
            context, value: of the positive prompt, as the layer gets them (R, L, d).
            options: `extra_options` of the pass.
            batch: samples of the latent; R is a multiple of it, for positive prompts of several entries.
        """
        if not (active := self.negative.active(options)):
            return None
        layer, branches = self.layers[key := _key(options)]
        attn, rows = layer.attn, torch.arange(len(n), device=n.device) % batch
        query = _heads(attn.to_q(n), attn.heads)
        branched = _Branched(query, self._size(attn, query, context, value), bool(self.adapter.spec.get("compat")))
        gain_negative, gain_positive = self._gains(branches, n.device)
        weights = [_row(weight, rows) for weight in self.negative.weights(active, options, n.shape[1], n.device)]
        total = n.new_zeros(len(n), n.shape[1] + 1, layer.width)  # the last row stays zero: W_out of it is the bias
        if "positive" in branches:
            branch = branches["positive"]
            keys, values = (_heads(each, attn.heads) for each in self._project(branch, context, n))
            total[:, :-1] += branched.part(branch, keys, values, sum(weights[1:], weights[0]) * gain_positive)
        if "negative" in branches:
            branch = branches["negative"]
            for entry, weight in zip(active, weights, strict=True):
                keys, values = (_row(each, rows) for each in self._negative_tokens(key, entry, branch, n, attn.heads))
                total[:, :-1] -= branched.part(branch, keys, values, weight * gain_negative)
        out = attn.to_out(total)
        return self.scale * (out[:, :-1] - out[:, -1:])

    def _size(self, attn: Any, query: Tensor, context: Tensor, value: Tensor) -> Tensor | None:
        """|Z| of the base's own attention; None for an adapter without normalisation."""
        if not self.adapter.spec.get("normalise", True):
            return None
        z = attend(query, _heads(attn.to_k(context), attn.heads), _heads(attn.to_v(value), attn.heads))
        return size(z, whole_batch=bool(self.adapter.spec.get("compat")))

    def _gains(self, branches: Mapping[str, Branch], device: torch.device) -> tuple[float | Tensor, float | Tensor]:
        """Of the negative and the positive branch: g(w) = (w - 1) / (1 + rho (w - 1)) for `sun_w`, else 1."""
        if "steering" not in branches:
            return 1.0, 1.0
        excess = self.guidance - 1
        curve = branches["steering"].curve.to(device, torch.float32)
        gain = excess / (1 + softplus(curve) * excess)
        return gain, gain if self.adapter.spec.get("steers", "offset") == "offset" else 1.0

    def _negative_tokens(self, key: Key, entry: int, branch: Branch, n: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Keys and values (n, heads, L, c) of an entry of the negative prompt, equal in all passes of a generation."""
        name = key, entry, n.device, n.dtype
        if (kept := self._kept.get(name)) is None:
            keys, values = self._project(branch, self.negative.entries[entry].tokens, n)
            kept = self._kept[name] = _heads(keys, heads), _heads(values, heads)
        return kept

    def _project(self, branch: Branch, tokens: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """W_k and W_v of tokens (B, L, d), on the device and in the type of n, wherever ComfyUI keeps the weights."""
        tokens = tokens.to(n.device, n.dtype)
        return linear(tokens, branch.to_k.to(n.device, n.dtype)), linear(tokens, branch.to_v.to(n.device, n.dtype))


class SUNOutputPatch:
    """Called after the layer: `attn2_output_patch`.

    Args:
        before: the patch that saw the layer's input.
    """

    def __init__(self, before: SUNPatch):
        self.before = before

    def __call__(self, n: Tensor, extra_options: dict[str, Any], **_: Any) -> Tensor:
        if _key(extra_options) not in self.before.layers:
            return n
        if (seen := extra_options.pop(self.before.slot, None)) is None:
            raise DataError(
                "Apply SUN: the output patch was called without the patch before it; remove the node that replaces "
                "ComfyUI's transformer blocks, or apply SUN after it"
            )
        marks = list(extra_options.get("cond_or_uncond") or [0])  # of each chunk of the batch: 0 for the positive prompt
        chosen = [i for i, mark in enumerate(marks) if mark == 0]
        if not chosen:
            return n
        layer_input, context, value = (_rows(each, len(marks), chosen) for each in seen)
        offset = self.before.offset(layer_input, context, value, extra_options, len(n) // len(marks))
        if offset is None:
            return n
        parts, offsets = list(n.chunk(len(marks))), offset.to(n.dtype).chunk(len(chosen))
        for i, each in zip(chosen, offsets, strict=True):
            parts[i] = parts[i] + each
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> "SUNOutputPatch":
        return self


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(B, P, h) of query, keys and values (B, heads, P or L, c)."""
    return scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)


def size(z: Tensor, *, whole_batch: bool) -> Tensor:
    """|z| in float32, over positions and channels of each sample (B, 1, 1); over the whole batch with `compat` (1, 1, 1)."""
    return torch.linalg.vector_norm(z.float(), dim=(0, 1, 2) if whole_batch else (1, 2), keepdim=True)


@dataclass(frozen=True)
class _Branched:
    """What the branches of a layer share.

    Attributes:
        query: (R, heads, P, c).
        size_z: |Z|, or None without normalisation.
        compat: the arithmetic of the authors' released code, where norms run over the whole batch.
    """

    query: Tensor
    size_z: Tensor | None
    compat: bool

    def part(self, branch: Branch, keys: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        """weight N', N' = alpha |Z| / |N| N + beta (R, P, h).

        Args:
            keys, values: (R, heads, L, c).
            weight: (1 or R, 1 or P, 1), float32.
        """
        n = attend(self.query, keys, values)
        factor = torch.ones(1, 1, 1, device=n.device)
        if self.size_z is not None:
            size_n = size(n, whole_batch=self.compat)
            factor = self.size_z / size_n
            if not self.compat:
                factor = torch.where(size_n > EPSILON, factor, 0.0)
        if branch.alpha is None or branch.beta is None:
            return (weight * factor).to(n.dtype) * n
        alpha, beta = (each.to(n.device, torch.float32) for each in (branch.alpha, branch.beta))
        return weight.to(n.dtype) * torch.addcmul(beta.to(n.dtype), (factor * alpha).to(n.dtype), n)


def _row(x: Tensor, rows: Tensor) -> Tensor:
    """Of x (m, ...) the row of each sample, repeated as ComfyUI repeats conditionings over a batch; m = 1 is expanded."""
    return x.expand(len(rows), *x.shape[1:]) if len(x) == 1 else x[rows % len(x)]


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, heads c) -> (B, heads, L, c)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _rows(x: Tensor, chunks: int, chosen: list[int]) -> Tensor:
    if len(chosen) == chunks:
        return x
    parts = x.chunk(chunks)
    return torch.cat([parts[i] for i in chosen])


def _key(options: Mapping[str, Any]) -> Any:
    block = options.get("block")
    return None if block is None else (block[0], block[1], options.get("block_index", 0))
