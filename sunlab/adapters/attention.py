"""SUN's extra attention branches (arXiv 2312.08887; formulas as the released code computes them, see `Branch`)."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from sunlab.adapters.joined import Joined, Prompt, joins
from sunlab.adapters.kernels import EPSILON, attend
from sunlab.adapters.state import PassState, identity, version_of
from sunlab.backbones.attention import AttentionCall, TextAttention

NO_BIAS = (False, False)


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
        bias: whether W_k and W_v have one each, as the layers of PixArt, SANA and Stable Diffusion 3 do.
    """

    def __init__(
        self, text_width: int, width: int, *, normalise: bool, scale: bool, compat: bool, bias: tuple[bool, bool] = NO_BIAS
    ):
        super().__init__()
        self.to_k, self.to_v = (nn.Linear(text_width, width, bias=each) for each in bias)
        self.normalise, self.compat = normalise, compat
        if scale:
            self.alpha = nn.Parameter(torch.ones(width))
            self.beta = nn.Parameter(torch.zeros(width))
        else:
            self.register_parameter("alpha", None)
            self.register_parameter("beta", None)

    def forward(
        self,
        layer: TextAttention,
        query: Tensor,
        size_z: Tensor,
        tokens: Tensor,
        mask: Tensor | None,
        state: PassState,
        *,
        positive: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """N, and what makes N' = factor N + beta of it.

        Args:
            layer: that the branch extends.
            query: (B, heads, P, h / heads).
            size_z: |Z| (B, 1, 1), or (1, 1, 1) with `compat`.
            tokens: (B, L, d).
            mask: added to the scores (B, 1 or heads, 1 or P, L), or None.
            positive: whether they are those of the positive prompt.

        Returns:
            N (B, P, h); factor, of the dtype of `size_z`, shaped to be multiplied with it.
        """
        n = attend(query, state.keys_values(self, layer, tokens, query, self.project, positive=positive), mask)
        factor = self._ratio(size_z, n) if self.normalise else torch.ones_like(size_z)
        return n, factor if self.alpha is None else factor * self.alpha.to(size_z.dtype)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """W_k c and W_v c (B, L, h)."""
        tokens = tokens.to(self.to_k.weight.dtype)
        return self.to_k(tokens), self.to_v(tokens)

    def _ratio(self, size_z: Tensor, n: Tensor) -> Tensor:
        size_n = size(n, whole_batch=self.compat)
        if self.compat:
            return size_z / size_n
        return torch.where(size_n > EPSILON, size_z / size_n.clamp(min=EPSILON), 0.0)  # no gradient of 1 / EPSILON either


def size(z: Tensor, *, whole_batch: bool = False) -> Tensor:
    """|z| over tokens and channels (B, 1, 1) of z (B, P, h), or over the whole batch (1, 1, 1). Half types are summed in
    float32."""
    if z.dtype == torch.bfloat16:  # which has float32's range: row by row, without a copy in float32
        z = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    wide = torch.float32 if z.dtype in (torch.float16, torch.bfloat16) else z.dtype
    return torch.linalg.vector_norm(z, dim=(0, 1, 2) if whole_batch else (1, 2), keepdim=True, dtype=wide)


class SUNAttention:
    """Extension of one text-attention layer: `out = W_out(Z + scale (P' - N'))`, scale = 1 in training. Beside
    an IP-Adapter, `out` is the IP-Adapter's own plus `W_out(scale (P' - N'))`. The branches share one query; each has a
    kernel call of its own, on a GPU they have one together: see docs/speed.md.

    Args:
        negative, positive: the branches; a branch that is None is left out.
    """

    def __init__(self, negative: Branch | None, positive: Branch | None):
        self.negative, self.positive = negative, positive
        self.compat = any(branch is not None and branch.compat for branch in (negative, positive))

    def __call__(self, call: AttentionCall, state: PassState) -> Tensor:
        if not state.in_attention:
            return call.below(state)
        query, layer = call.query(), call.layer
        if not self.compat and joins(call, state, query):
            return self._joined(call, state, query)
        z = state.attention(call, query)
        size_z, total = size(z, whole_batch=self.compat), z if call.plain else torch.zeros_like(z)
        addcmul = torch.addcmul if torch.is_grad_enabled() else Tensor.addcmul_
        for signed, branch, tokens, mask in self._branches(call, state, query):
            n, factor = branch(layer, query, size_z, tokens, mask, state, positive=branch is self.positive)
            total = addcmul(total, n, (signed * factor).to(n.dtype))
        shift = self._shift(state)
        if call.plain and state.inference and (shift is None or shift.ndim == 1):
            bias = layer.shifted_bias(shift, z)  # one pass over (B, P, h) less
            if bias is not None:
                return layer.out(total, bias)
        total = total if shift is None else total + shift.to(total.dtype)
        return layer.out(total) if call.plain else call.below() + layer.out_offset(total)

    def _joined(self, call: AttentionCall, state: PassState, query: Tensor) -> Tensor:
        """The output in the passes of a generation in which all prompts are computed together."""
        layer, made_from = call.layer, (state.negative, state.gain, state.gain_positive)

        def join() -> Joined:
            once = replace(state, cache=None)  # what is joined is kept, its parts are not
            one = query.new_ones(1, 1, layer.width, dtype=torch.float32)
            prompts = list[Prompt]()
            if not layer.joint:
                own = once.keys_values(layer.to_k, layer, call.tokens, query, exact=True, positive=True)
                prompts.append(Prompt(own, state.positive_bias(call, query), one))
            for signed, branch, tokens, mask in self._branches(call, state, query):
                positive = branch is self.positive
                keys_values = once.keys_values(branch, layer, tokens, query, branch.project, positive=positive)
                prompts.append(Prompt(keys_values, mask, signed * (one if branch.alpha is None else one * branch.alpha)))
            shift = self._shift(state)
            bias = layer.shifted_bias(shift, query) if shift is None or shift.ndim == 1 else None
            normalise = any(branch is not None and branch.normalise for branch in (self.negative, self.positive))
            return Joined.of(prompts, normalise=normalise, shift=shift, bias=bias, made_from=made_from)

        assert state.cache is not None
        version = (version_of(layer), query.dtype, state.scale, *map(identity, made_from))
        tokens = call.tokens if state.prompt is None else state.prompt
        joined: Joined = state.cache.get(self, tokens, version, join)
        total = joined.attend(query, call.attention())
        if joined.bias is not None and layer.shifted_bias(None, total) is not None:
            return layer.out(total, joined.bias)
        return layer.out(total if joined.shift is None else total + joined.shift.to(total.dtype))

    def _branches(
        self, call: AttentionCall, state: PassState, query: Tensor
    ) -> Iterator[tuple[float | Tensor, Branch, Tensor, Tensor | None]]:
        """Factor of each branch with its sign (see `_signed`), the branch, its prompt's tokens (B, L, d) and mask."""
        for signed, branch in self._signed(state):
            if branch is self.positive:
                yield signed, branch, call.tokens, state.positive_bias(call, query)
            else:
                yield signed, branch, state.negative_tokens(call), state.negative_bias(query)

    def _signed(self, state: PassState) -> Iterator[tuple[float | Tensor, Branch]]:
        """-scale x gain of the negative branch, scale x gain of the positive one; a number, or (B, 1, 1) with a gain."""
        signs = (-state.scale, self.negative, state.gain), (state.scale, self.positive, state.gain_positive)
        for sign, branch, gain in signs:
            if branch is not None:
                yield (sign if gain is None else sign * gain.view(-1, 1, 1)), branch

    def _shift(self, state: PassState) -> Tensor | None:
        """The sum of the betas with their factors, (h,) or (B, 1, h); None without any."""
        betas = [signed * branch.beta for signed, branch in self._signed(state) if branch.beta is not None]
        return sum(betas[1:], betas[0]) if betas else None
