"""Cross-attention layers of diffusers' transformers that hand their attention layers no keyword arguments (SANA, Wan).

The state of a pass is read where it is carried, see `sunlab.backbones.state`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

from torch import Tensor

from sunlab.backbones.attention import AttentionCall, Extension, NetworkLayers
from sunlab.backbones.sd.attention import UNetTextAttention
from sunlab.backbones.state import carried
from sunlab.backbones.weights import shape_of
from sunlab.errors import ConfigError


class CarriedTextAttention(UNetTextAttention):
    """A cross-attention layer. Norms of queries and keys, where there are any, are over all heads at once.

    Attributes:
        processor: the name of diffusers' processor of these layers.
    """

    processor: ClassVar[str]

    @property
    def plain(self) -> bool:
        return type(self.attn.processor).__name__ == self.processor

    @property
    def text_width(self) -> int:  # type: ignore[override]
        return shape_of(self.attn.to_k)[1]

    @property
    def extended(self) -> bool:
        return isinstance(self.attn.processor, Extended)

    def norm_k(self, key: Tensor) -> Tensor:
        return key if self.attn.norm_k is None else self.split(self.attn.norm_k(key.transpose(1, 2).flatten(2)))

    def split(self, x: Tensor) -> Tensor:
        """(B, L, h) -> (B, heads, L, c)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@dataclass(frozen=True)
class CarriedCall(AttentionCall):
    """One pass through an extended layer.

    Attributes:
        base: diffusers' processor.
        hidden: (B, P, h).
        bias: of the prompt's padding (B, 1, L), or None.
        rest: the extensions that have not run yet, the outermost last.
    """

    layer: CarriedTextAttention
    base: Any
    hidden: Tensor
    tokens: Tensor
    bias: Tensor | None
    rest: tuple[Extension, ...]

    @property
    def plain(self) -> bool:  # type: ignore[override]
        return not self.rest

    def query(self) -> Tensor:
        attn = self.layer.attn
        query = attn.to_q(self.hidden)
        return self.layer.split(query if attn.norm_q is None else attn.norm_q(query))

    def mask(self) -> Tensor | None:
        return None if self.bias is None else self.bias[:, None]

    def below(self, state: Any = None) -> Tensor:
        if not self.rest or state is None:
            return self.base(self.layer.attn, self.hidden, self.tokens, self.bias)
        inner = CarriedCall(self.layer, self.base, self.hidden, self.tokens, self.bias, self.rest[:-1])
        if len(self.tokens) != len(self.hidden):
            raise ConfigError(
                f"the latents have {len(self.hidden)} rows, the prompt embeddings {len(self.tokens)}; a callback that "
                "changes the batch must change latents, prompt_embeds and negative_prompt_embeds alike"
            )
        return self.rest[-1](inner, state)


class Extended:
    """The processor of a layer with extensions. In a pass without a state it is the one below.

    Args:
        layer: with the processor that was there.
    """

    def __init__(self, layer: CarriedTextAttention):
        self.layer, self.base = layer, layer.attn.processor
        self.extensions: tuple[Extension, ...] = ()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: None = None,
    ) -> Tensor:
        call = CarriedCall(self.layer, self.base, hidden_states, encoder_hidden_states, attention_mask, self.extensions)
        return call.below(carried())

    __call__.__signature__ = signature(__call__)  # type: ignore[attr-defined]  # which diffusers reads in every call


class CarriedLayers(NetworkLayers):
    """A transformer of such layers as adapters attach to it.

    Attributes:
        blocks: the transformer's attribute with its blocks, each with the layer `attn2`.
        layer: the class of these layers.
    """

    key: ClassVar[str] = "attention_kwargs"
    projects: ClassVar[bool] = True
    blocks: ClassVar[str] = "transformer_blocks"
    layer: ClassVar[type[CarriedTextAttention]]

    def text_attention(self) -> Mapping[str, CarriedTextAttention]:
        """The cross-attention layers by path."""
        blocks = enumerate(getattr(self.network, self.blocks))
        return {f"{self.blocks}.{number}.attn2": self.layer(block.attn2) for number, block in blocks}

    def extend(self, extensions: Mapping[str, Extension]) -> "CarriedAttachment":
        """See `Backbone.extend`."""
        return CarriedAttachment(self.text_attention(), extensions)


class CarriedAttachment:
    """Extensions in a transformer. Other libraries' processors are never removed.

    Args:
        layers: the transformer's cross-attention layers by path.
        extensions: by path.

    Raises:
        ConfigError: a path that is no cross-attention layer, or a processor that cannot be composed with.
    """

    def __init__(self, layers: Mapping[str, CarriedTextAttention], extensions: Mapping[str, Extension]):
        if unknown := sorted(set(extensions) - set(layers)):
            raise ConfigError(f"the transformer has no cross-attention layer {unknown[0]}")
        for path in extensions:
            if not (layers[path].plain or layers[path].extended):
                raise ConfigError(
                    f"{path} runs {type(layers[path].attn.processor).__name__}, which an adapter cannot be composed with; "
                    f"remove it first: set it to diffusers' {layers[path].processor}()"
                )
        self.placed: list[tuple[Any, Extended, Extension]] = []
        for path, extension in extensions.items():
            attn = layers[path].attn
            if not layers[path].extended:
                attn.set_processor(Extended(layers[path]))
            attn.processor.extensions = (*attn.processor.extensions, extension)
            self.placed.append((attn, attn.processor, extension))

    def intact(self) -> bool:
        return all(attn.processor is ours and extension in ours.extensions for attn, ours, extension in self.placed)

    def remove(self) -> None:
        for attn, ours, extension in self.placed:
            if attn.processor is ours and ours.extensions[-1:] != (extension,):
                raise ConfigError("another adapter is attached on top of this one; detach that one first")
        for attn, ours, _ in self.placed:
            ours.extensions = ours.extensions[:-1]
            if attn.processor is ours and not ours.extensions:
                attn.set_processor(ours.base)
        self.placed = []
