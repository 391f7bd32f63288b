"""SUN's extra attention branches (arXiv 2312.08887; formulas as the released code computes them, see `Branch`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sunlab.adapters.kernels import Tokens, attend
from sunlab.adapters.processors import BESIDE, Call, Processor

EPSILON = 1e-12  # below it a norm counts as zero: an all-zero branch stays zero instead of NaN


class PromptCache:
    """What does not change over the steps of a generation: its prompts' keys and values, first of all."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Any, Any]] = {}

    def get(self, owner: object, tokens: Tensor, compute: Callable[[], Any], *layers: nn.Module) -> Any:
        """What `owner` computed of these very tokens before, or computes now: one is kept for each owner, until the tokens
        or the LoRAs of the layers that it is computed with change."""
        version = 0 if tokens.is_inference() else tokens._version
        state = version, *map(lora_of, layers)
        kept = self._kept.get(id(owner))
        if kept is None or kept[0] is not tokens or kept[1] != state:
            kept = self._kept[id(owner)] = tokens, state, compute()
        return kept[2]


def lora_of(layer: nn.Module) -> tuple[Any, ...]:
    """Which LoRAs act on a layer of peft's, and how strongly; equal before and after where nothing was changed."""
    if type(layer) is nn.Linear:
        return ()
    told = (getattr(layer, name, None) for name in ("disable_adapters", "active_adapters", "merged_adapters", "scaling"))
    return tuple(map(repr, told))


@dataclass(frozen=True)
class BranchInputs:
    """What a pass with the adapter on hands to every cross-attention layer.

    Attributes:
        negative: the negative prompt's tokens (B, L, d).
        gain: factor on the negative branch (B,), or None for 1: how a guidance-conditioned adapter is steered.
        gain_positive: likewise, on the extra positive branch.
        cache: for the passes of one generation; not used where gradients are wanted.
    """

    negative: Tensor
    gain: Tensor | None = None
    gain_positive: Tensor | None = None
    cache: PromptCache | None = None

    @staticmethod
    def of(negative: Tensor) -> "BranchInputs":
        """With a cache where no gradients are wanted."""
        return BranchInputs(negative, cache=None if torch.is_grad_enabled() else PromptCache())

    @property
    def keeps(self) -> bool:
        """Whether what a layer computes of the prompts is kept for the next step."""
        return self.cache is not None and not torch.is_grad_enabled() and not torch.compiler.is_compiling()

    def kept(self, owner: object, tokens: Tensor, compute: Callable[[], Any], *layers: nn.Module) -> Any:
        """What `owner` computes of the tokens, from the cache where it keeps; layers: see `PromptCache.get`."""
        return self.cache.get(owner, tokens, compute, *layers) if self.cache is not None and self.keeps else compute()

    def projected(
        self, owner: object, tokens: Tensor, to_k: Any, to_v: Any, query: Tensor, *, exact: bool = False
    ) -> Tokens:
        """Keys and values of the tokens (B, L, d), laid out as the query (B, heads, P, c) is; exact: see `Tokens.of`."""

        def lay_out() -> Tokens:
            key, value = (layer(tokens.to(layer.weight.dtype)).to(query.dtype) for layer in (to_k, to_v))
            return Tokens.of(key, value, query.shape[1], exact=exact)

        laid_out: Tokens = self.kept(owner, tokens, lay_out, to_k, to_v)
        return laid_out


class Branch(nn.Module):
    """One attention branch beside the base's own: W_k, W_v over some tokens, normalised to the base's magnitude.

    `N = Attention(Q, W_k c, W_v c)`, `N' = alpha (|Z| N / |N|) + beta`, alpha and beta per channel. The norm runs over the
    tokens and channels of one sample; with `compat`, over the whole batch, as the released code has it.

    Args:
        text_width: d.
        width: h, of the layer.
        normalise: whether |Z| / |N| is applied; without it N' = alpha N + beta.
        scale: whether alpha and beta are there and trained.
        compat: the released code's arithmetic.
    """

    def __init__(self, text_width: int, width: int, *, normalise: bool, scale: bool, compat: bool):
        super().__init__()
        self.to_k = nn.Linear(text_width, width, bias=False)
        self.to_v = nn.Linear(text_width, width, bias=False)
        self.normalise, self.compat = normalise, compat
        if scale:
            self.alpha = nn.Parameter(torch.ones(width))
            self.beta = nn.Parameter(torch.zeros(width))
        else:
            self.register_parameter("alpha", None)
            self.register_parameter("beta", None)

    def forward(self, query: Tensor, size_z: Tensor, tokens: Tensor, inputs: BranchInputs) -> tuple[Tensor, Tensor]:
        """N, and what makes N' = factor N + beta of it.

        Args:
            query: (B, heads, P, h / heads).
            size_z: |Z| (B, 1, 1), or (1, 1, 1) with `compat`.
            tokens: (B, L, d).

        Returns:
            N (B, P, h); factor, float32, shaped to be multiplied with it.
        """
        n = attend(query, inputs.projected(self, tokens, self.to_k, self.to_v, query))
        factor = self._ratio(size_z, n) if self.normalise else torch.ones_like(size_z)
        return n, factor if self.alpha is None else factor * self.alpha.float()

    def _ratio(self, size_z: Tensor, n: Tensor) -> Tensor:
        size_n = size(n, whole_batch=self.compat)
        if self.compat:
            return size_z / size_n
        return torch.where(size_n > EPSILON, size_z / size_n.clamp(min=EPSILON), 0.0)  # no gradient of 1 / EPSILON either


def size(z: Tensor, *, whole_batch: bool = False) -> Tensor:
    """|z| over tokens and channels (B, 1, 1) of z (B, P, h), in float32; or over the whole batch (1, 1, 1)."""
    if z.dtype == torch.bfloat16:  # which has float32's range: row by row, without a copy in float32
        z = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return torch.linalg.vector_norm(z, dim=(0, 1, 2) if whole_batch else (1, 2), keepdim=True, dtype=torch.float32)


class SUNCrossAttention(Processor):
    """Of one cross-attention layer: `out = W_out(Z - N' + P')`. Beside an IP-Adapter, `out` is the IP-Adapter's own plus
    `W_out(P' - N')`. The branches share one query, each with a kernel call of its own: see docs/speed.md.

    Args:
        base: the processor that was there.
        negative, positive: the branches; a branch that is None is left out.
    """

    def __init__(self, base: Any, negative: Branch | None, positive: Branch | None):
        super().__init__(base)
        self.negative, self.positive = negative, positive
        self.compat = any(branch is not None and branch.compat for branch in (negative, positive))
        self.beside = type(base).__name__ in BESIDE

    def respond(self, call: Call, sun: BranchInputs) -> Tensor:
        query, tokens, attn = call.query(), call.tokens, call.attn
        own = sun.projected(attn, tokens, attn.to_k, attn.to_v, query, exact=True)
        z = attend(query, own, call.prepared_mask())
        size_z, total = size(z, whole_batch=self.compat), torch.zeros_like(z) if self.beside else z
        addcmul = torch.addcmul if torch.is_grad_enabled() else Tensor.addcmul_
        for sign, branch, text, gain in self._signed(sun, tokens):
            n, factor = branch(query, size_z, text, sun)
            total = addcmul(total, n, (sign * factor if gain is None else sign * gain.view(-1, 1, 1) * factor).to(n.dtype))
        unsteered = sun.gain is None and sun.gain_positive is None
        if not self.beside and unsteered and sun.keeps and call.out_is_linear(z):
            return call.out_with(total, sun.kept(self, sun.negative, lambda: call.bias_with(self.shift(sun))))
        if (shift := self.shift(sun)) is not None:
            total = total + shift.to(total.dtype)
        return self.below(call) + call.out_offset(total) if self.beside else call.out(total)

    def shift(self, sun: BranchInputs) -> Tensor | None:
        """P's beta less N's, each with its gain, (h,) or (B, 1, h), None for zero."""
        betas = [
            sign * branch.beta if gain is None else sign * gain.view(-1, 1, 1) * branch.beta
            for sign, branch, _, gain in self._signed(sun, sun.negative)
            if branch.beta is not None
        ]
        return sum(betas[1:], betas[0]) if betas else None

    def _signed(self, sun: BranchInputs, tokens: Tensor) -> Iterator[tuple[int, Branch, Tensor, Tensor | None]]:
        """The branches there are: sign, branch, its prompt's tokens (B, L, d), its gain (B,)."""
        if self.negative is not None:
            yield -1, self.negative, sun.negative, sun.gain
        if self.positive is not None:
            yield 1, self.positive, tokens, sun.gain_positive
