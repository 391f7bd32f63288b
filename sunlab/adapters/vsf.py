"""Value sign flip (VSF, arXiv 2508.10931)."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sunlab.adapters.base import ADAPTERS
from sunlab.adapters.kernels import Tokens, attend
from sunlab.adapters.stacked import Stacked
from sunlab.adapters.state import PassState
from sunlab.backbones.attention import AttentionCall, TextAttention
from sunlab.errors import ConfigError
from sunlab.types import Conditioning


@ADAPTERS.register("vsf")
class VSF(Stacked):
    """Training-free negative guidance in text attention: the negative prompt's values with the opposite sign.

    It acts by itself or on top of another adapter, with one softmax over the tokens of both prompts. As in the authors' code
    (weathon/VSF on GitHub; the numbers of the paper's equations were not at hand) for cross-attention, `WanAttnProcessor2_0`
    in vsfwan/processor.py, with the base's own keys and values:
    `Z = softmax([Q K_pos^T, Q K_neg^T] / sqrt(c) + [M_pos, M_neg - beta]) [V_pos; -alpha V_neg]`. A query that attends to no
    negative token is left alone, so that the guidance adapts to positions, heads and steps. Positive tokens attend to no
    negative ones, and padding of the negative prompt is masked, also where the network attends to it; embeddings that come
    without a tokenizer's mask are attended to as a whole. VSF does not depend on the guidance scale w.

    In joint attention the negative prompt runs through the blocks as a second stream of text, as in `JointAttnProcessor2_0`
    of their src/processor.py: the image attends to itself, to the positive prompt and to a copy of the negative one with
    flipped values; each prompt attends to the image and to itself, with values as they are.

    Args:
        alpha: factor on the flipped values (`scale` in the authors' code).
        beta: by how much the scores of negative tokens are lowered (`offset` there).
        inner: the adapter below, a name or a mapping with `name` and parameters; null: whatever the layers run. Its tensors
            are this adapter's.

    Raises:
        ConfigError: alpha or beta is negative.
    """

    def __init__(self, *, alpha: float = 3.5, beta: float = 0.1, inner: str | dict[str, Any] | None = None):
        if alpha < 0 or beta < 0:
            raise ConfigError(f"adapter: vsf needs alpha >= 0 and beta >= 0, got {alpha} and {beta}")
        super().__init__(inner, name="vsf", alpha=alpha, beta=beta)
        self.alpha, self.beta = alpha, beta

    def state(self, positive: Conditioning, negative: Conditioning | None, guidance: Tensor) -> PassState:
        state = super().state(positive, negative, guidance)
        if negative is None:
            return state
        mask = state.second_mask if negative.words is None else negative.words
        return replace(state, words=negative.words, second_mask=mask)

    def extension(self, path: str, layer: TextAttention) -> "VSFAttention":
        return VSFAttention(alpha=self.alpha, beta=self.beta)


class VSFAttention:
    """Extension of one text-attention layer. Over plain attention it is `W_out(Z_vsf)`; over a layer with a term of its own
    before W_out (SUN, an IP-Adapter), that one's output plus `W_out(Z_vsf - Z_pos)`, W_out being linear.

    Args:
        alpha, beta: see `VSF`.
    """

    def __init__(self, *, alpha: float, beta: float):
        self.alpha, self.beta = alpha, beta

    def __call__(self, call: AttentionCall, state: PassState) -> Tensor:
        if not state.in_attention:
            return call.below(state)
        query, layer = call.query(), call.layer
        if layer.joint:
            z = call.attention_to_second(both=True, factor=-self.alpha, offset=-self.beta)
        else:
            positive = state.keys_values(layer.to_k, layer, call.tokens, query, exact=True, positive=True)
            negative = state.keys_values(self, layer, state.negative_tokens(call), query)
            z = attend(query, *self._joined(positive, state.positive_bias(call, query), negative, state.words_bias(query)))
        if call.plain:
            return layer.out(z)
        return call.below(state) + layer.out_offset(z - state.attention(call, query))

    def _joined(
        self, positive: Tokens, mask: Tensor | None, negative: Tokens, words: Tensor | None
    ) -> tuple[Tokens, Tensor]:
        """Both prompts' tokens under one mask. Args: mask, words, terms of the scores of each, or None."""
        first, second = _scores(positive, mask), _scores(negative, words) - self.beta
        rows = torch.broadcast_shapes(first.shape[:3], second.shape[:3])
        bias = torch.cat([part.expand(*rows, -1) for part in (first, second)], dim=-1)
        value = torch.cat([positive.value, -self.alpha * negative.value], dim=2)
        return Tokens(torch.cat([positive.key, negative.key], dim=2), value, None), bias


def _scores(tokens: Tokens, mask: Tensor | None) -> Tensor:
    """The term of the scores, zeros without a mask."""
    bias = tokens.bias(mask)
    return tokens.key.new_zeros(1, 1, 1, tokens.key.shape[2]) if bias is None else bias
