"""The state of a pass: what an adapter's layers receive, whichever adapters are stacked."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sunlab.adapters.kernels import Tokens, attend
from sunlab.backbones.attention import AttentionCall, TextAttention, TokenContext
from sunlab.errors import ConfigError
from sunlab.types import Conditioning

Projection = Callable[[Tensor], tuple[Tensor, Tensor]]


class PromptCache:
    """What does not change over the steps of a generation: above all its prompts' keys and values."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[object, Tensor, Any, Any]] = {}

    def get(self, owner: object, tokens: Tensor, version: Hashable, compute: Callable[[], Any]) -> Any:
        """The value that `owner` computed of these tokens, or `compute()`. One value is kept for each owner until the tokens
        (also in place) or the version change."""
        state = _changes(tokens), version
        kept = self._kept.get(id(owner))
        if kept is None or kept[0] is not owner or kept[1] is not tokens or kept[2] != state:
            kept = self._kept[id(owner)] = owner, tokens, state, compute()
        return kept[3]


@dataclass(frozen=True)
class PassState:
    """State of a pass with an adapter on.

    Attributes:
        negative: the negative prompt's tokens (B, L, d) as the attention layers receive them, see `Backbone.context`; None
            for adapters without a negative branch.
        negative_mask: (B, L), False at padding, or None.
        words: (B, L), False at the negative prompt's padding also where the network attends to it, or None: not known.
        positive_mask: of the positive prompt (B, L), False at padding, which in joint attention the network attends to and
            adapters do not; None: there is none, or it is not known.
        kept: which of the positive tokens a trimmed state attends to, see `trimmed`; None: all.
        second: a second prompt (B, L, d), before the network's own projection, that a network of joint attention carries
            through its blocks beside the first, see `AttentionCall.attention_to_second`; None: there is none.
        second_mask: (B, L), False where no query attends to it, or None.
        gain: factor on the negative branch (B,), or None for 1: how a guidance-conditioned adapter is steered.
        gain_positive: likewise, on the extra positive branch.
        scale: factor on the whole offset that the adapter adds to its layers, see `Strength`.
        guidance: the guidance scale w (B,) of an adapter that is conditioned on it and on the time.
        time: of the pass, as the network takes it (B,) or (); see `at`.
        prompt: what the network makes the positive tokens of, the same ones in every pass; None: the layers' tokens depend
            on the pass, or are the prompt itself. See `at`.
        in_attention: whether what adapters attached to text attention acts; a state of LoRAs alone leaves it off.
        loras: id of each LoRA adapter that is on -> factor on its update.
        cache: for the passes of one generation; not used where gradients are computed.
    """

    negative: Tensor | None = None
    negative_mask: Tensor | None = None
    words: Tensor | None = None
    positive_mask: Tensor | None = None
    kept: "Kept | None" = None
    second: Tensor | None = None
    second_mask: Tensor | None = None
    gain: Tensor | None = None
    gain_positive: Tensor | None = None
    scale: float = 1.0
    guidance: Tensor | None = None
    time: Tensor | None = None
    prompt: Tensor | None = None
    in_attention: bool = True
    loras: Mapping[int, float] = field(default_factory=dict)
    cache: PromptCache | None = None

    @staticmethod
    def of(negative: TokenContext | None, positive: Conditioning | None = None, *, joint: bool = False) -> "PassState":
        """With a cache if gradients are off.

        Args:
            joint: the network's attention is joint, see `TextAttention.joint`.
        """
        cache = None if torch.is_grad_enabled() else PromptCache()
        mask = None if positive is None else padding_of(positive, joint=joint)
        state = PassState(positive_mask=mask, cache=cache)
        return state if negative is None else replace(state, negative=negative.tokens, negative_mask=negative.mask)

    def trimmed(self) -> "PassState":
        """The state without what is masked in all rows: the same passes in less time. It reads the masks' lengths back from
        the device once: for the passes of a generation, not for a training step."""
        state = self
        if self.negative is not None and self.negative_mask is not None:
            kept = Kept.of(self.negative_mask)
            words = None if self.words is None else kept(self.words)
            state = replace(state, negative=kept(self.negative), negative_mask=kept.mask, words=words)
        if self.second is not None and self.second_mask is not None:
            kept = Kept.of(self.second_mask)
            state = replace(state, second=kept(self.second), second_mask=kept.mask)
        if self.positive_mask is not None:
            state = replace(state, kept=Kept.of(self.positive_mask))
        return state if self.cache is None else replace(state, cache=PromptCache())  # of the tokens that are left

    def at(self, time: Tensor, prompt: Tensor | None = None) -> "PassState":
        """In a pass at this time of the network, for an adapter that is conditioned on it, and with this prompt, for what is
        kept over a generation; families call it."""
        if self.guidance is not None:
            return replace(self, time=time, prompt=prompt)
        return self if prompt is self.prompt else replace(self, prompt=prompt)

    def scaled(self, *, offset: float = 1.0, lora: float = 1.0) -> "PassState":
        """With so much of the offset, and the LoRAs at so much of their update."""
        loras = {name: lora * factor for name, factor in self.loras.items()}
        return replace(self, scale=offset * self.scale, loras=loras)

    def negative_tokens(self, call: AttentionCall) -> Tensor:
        """`negative`. Raises `ConfigError` if the pass has another batch size."""
        assert self.negative is not None, "an adapter with a negative branch needs a negative prompt"
        for name, rows in (("the negative prompt", self.negative), ("the guidance scale", self.gain)):
            if rows is not None:
                _require_rows(call.tokens, name, rows)
        return self.negative

    def negative_bias(self, query: Tensor) -> Tensor | None:
        """`negative_mask` as a term of the scores (B, 1, 1, L)."""
        return _bias(self.negative_mask, query)

    def words_bias(self, query: Tensor) -> Tensor | None:
        """The same without any padding."""
        return _bias(self.negative_mask if self.words is None else self.words, query)

    def positive_bias(self, call: AttentionCall, query: Tensor) -> Tensor | None:
        """The mask of the positive tokens that `keys_values` returns with `positive`, as a term of the scores."""
        if self.kept is not None:
            return _bias(self.kept.mask, query)
        mask = call.mask()
        return _bias(self.positive_mask, query) if mask is None else mask

    @property
    def inference(self) -> bool:
        """Whether no gradients are computed and nothing is traced, so that values may be kept and changed in place."""
        return self.cache is not None and not torch.is_grad_enabled() and not torch.compiler.is_compiling()

    def source(self, tokens: Tensor) -> Tensor:
        """Of the positive tokens (B, L, d) that a layer receives: a network that projects its prompt makes new ones in each
        pass, equal ones of the same prompt."""
        return tokens if self.prompt is None else self.prompt

    def keys_values(
        self,
        owner: object,
        layer: TextAttention,
        tokens: Tensor,
        query: Tensor,
        project: Projection | None = None,
        *,
        exact: bool = False,
        positive: bool = False,
    ) -> Tokens:
        """Keys and values of tokens (B, L, d) for `attend`, from the cache if `owner` computed them before.

        Args:
            query: (B, heads, P, c), whose dtype they get.
            project: tokens -> key, value (B, L, h); None: the layer's own projections, of tokens of the query's dtype, since
                a weight that is kept quantised or in eight bits does not state the dtype to compute in.
            exact: see `Tokens.of`.
            positive: they are the positive prompt's, of which a trimmed state takes a part; see `positive_bias`.
        """

        def own(tokens: Tensor) -> tuple[Tensor, Tensor]:
            tokens = tokens.to(query.dtype)
            return layer.to_k(tokens), layer.to_v(tokens)

        def compute() -> Tokens:
            seen = self.kept(tokens) if positive and self.kept is not None else tokens
            projected = own(seen) if project is None else project(seen)
            key, value = (part.to(query.dtype).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in projected)
            return Tokens.of(layer.norm_k(key), value, exact=exact)

        if self.cache is None or not self.inference:
            return compute()
        laid_out: Tokens = self.cache.get(owner, self.source(tokens) if positive else tokens, version_of(layer), compute)
        return laid_out

    def attention(self, call: AttentionCall, query: Tensor) -> Tensor:
        """Z (B, P, h) of the layer's own attention, which may be changed in place."""
        z = call.attention()
        if z is not None:
            return z
        own = self.keys_values(call.layer.to_k, call.layer, call.tokens, query, exact=True, positive=True)
        return attend(query, own, self.positive_bias(call, query))


@dataclass(frozen=True)
class Kept:
    """The tokens of a prompt that its mask keeps, moved to the front.

    Attributes:
        index: (B, n) of them, in their order, and then of others up to the longest row.
        mask: (B, n), False at those others; None without any.
    """

    index: Tensor
    mask: Tensor | None

    @staticmethod
    def of(mask: Tensor) -> "Kept":
        """Of a mask (B, L). It reads the lengths back from the device."""
        lengths = mask.sum(1)
        shortest, longest = torch.stack([lengths.min(), lengths.max()]).tolist()
        index = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(longest, 1)]
        return Kept(index, None if shortest == longest else mask.gather(1, index))

    def __call__(self, rows: Tensor) -> Tensor:
        """Of rows (B, L) or (B, L, d). Raises `ConfigError` if they have another number of prompts or fewer tokens."""
        _require_rows(rows, "their mask", self.index)
        index = self.index if rows.dim() == 2 else self.index[..., None].expand(-1, -1, rows.shape[-1])
        return rows.gather(1, index)


def padding_of(prompts: Conditioning, *, joint: bool) -> Tensor | None:
    """The mask of what adapters attend to (B, L): the network's own; in joint attention, where it has none, the words."""
    return prompts.words if joint and prompts.mask is None else prompts.mask


def _require_rows(prompts: Tensor, name: str, others: Tensor) -> None:
    if len(prompts) != len(others):
        raise ConfigError(
            f"the prompt embeddings have {len(prompts)} rows, {name} has {len(others)}; a callback that changes the batch "
            "must change latents, prompt_embeds and negative_prompt_embeds alike"
        )


def _bias(mask: Tensor | None, query: Tensor) -> Tensor | None:
    if mask is None:
        return None
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)[:, None, None, :]


def identity(tensor: Tensor | None) -> tuple[int, int]:
    """Which tensor it is, after how many changes in place. Another one may get the same once it is freed."""
    return (0, 0) if tensor is None else (id(tensor), _changes(tensor))


def _changes(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def version_of(layer: TextAttention) -> tuple[str, ...]:
    """Which LoRAs of peft act on the layer's own projections, and how strongly."""
    names = ("disable_adapters", "active_adapters", "merged_adapters", "scaling")
    loras = [part for part in (layer.to_k, layer.to_v) if type(part) is not nn.Linear]
    return tuple(repr(getattr(part, name, None)) for part in loras for name in names)
