"""The part of a network that adapters extend: the attention layers over the prompt, and one call of such a layer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from sunlab.backbones.state import STATE, carrying
from sunlab.errors import ConfigError
from sunlab.types import Conditioning


@dataclass(frozen=True)
class TokenContext:
    """A prompt as the attention layers receive it, after the network's own projections of it.

    Attributes:
        tokens: (B, L, d).
        mask: (B, L) bool, False at padding, or None if adapters attend to every token. In joint attention, where the network
            attends to padding, it is False there too.
    """

    tokens: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class Layer:
    """The shape of a text-attention layer: width h, text width d, number of heads, whether its keys are normalised, and the
    space of its text tokens, see `TextAttention`."""

    width: int
    text: int
    heads: int
    normalised: bool = False
    text_space: str = ""


Layers = Mapping[str, Layer]
"""Path in the network -> layer, in the network's own order."""


class TextAttention(ABC):
    """An attention layer over the prompt that an adapter may extend.

    In cross-attention the queries are those of the image, the keys and values those of the prompt. In joint attention this
    is the image side: image queries, and the output projection of the image stream.

    Attributes:
        width: channels h of the queries, keys and values, over all heads.
        text_width: width d of the tokens that `to_k` and `to_v` take.
        heads: number of heads.
        to_k, to_v: the layer's own projections, (B, L, d) -> (B, L, h), wrapped by LoRA or not.
        joint: whether the image attends to itself in the same softmax (joint attention).
        normalises_keys: whether `norm_k` is a norm.
        text_space: a name that tells the layer's text tokens from those of families with layers of the same shapes.
    """

    width: int
    text_width: int
    heads: int
    to_k: nn.Module
    to_v: nn.Module
    joint: bool = False
    normalises_keys: bool = False
    text_space: str = ""

    @property
    @abstractmethod
    def plain(self) -> bool:
        """Whether the layer's output is `out(Z)` of its own attention Z and nothing else, neither an extension nor another
        library's addition such as an IP-Adapter."""

    @property
    @abstractmethod
    def extended(self) -> bool:
        """Whether an extension is attached."""

    def norm_k(self, key: Tensor) -> Tensor:
        """The layer's norm of keys (B, heads, L, c); the identity if it has none."""
        return key

    @abstractmethod
    def out(self, z: Tensor, bias: Tensor | None = None) -> Tensor:
        """The output projection of z (B, P, h), with `bias` (h,) instead of its own where given (see `shifted_bias`)."""

    @abstractmethod
    def out_offset(self, offset: Tensor) -> Tensor:
        """The output projection of an offset (B, P, h), without its bias: out(z + offset) - out(z)."""

    def shifted_bias(self, shift: Tensor | None, z: Tensor) -> Tensor | None:
        """The bias with which `out(z, bias)` is `out(z + shift)`, shift (h,); None if the projection is not one matrix and
        one bias on z's device (under LoRA, quantised, offloaded)."""
        return None


class AttentionCall(ABC):
    """One pass through an extended layer.

    Attributes:
        layer: the layer.
        hidden: its input, of the image (B, P, h).
        tokens: the positive prompt (B, L, d), equal to that of `Backbone.context`.
        plain: whether `below()` is the layer's plain output, see `TextAttention.plain`.
    """

    layer: TextAttention
    hidden: Tensor
    tokens: Tensor
    plain: bool

    @abstractmethod
    def query(self) -> Tensor:
        """(B, heads, P, c), normalised and rotated as the layer does; best a view of (B, P, heads, c)."""

    @abstractmethod
    def mask(self) -> Tensor | None:
        """Of the positive tokens, added to the scores: (B, heads or 1, 1 or P, L), or None."""

    def attention(self) -> Tensor | None:
        """Z (B, P, h), the layer's own attention before its output projection; the caller may change it in place. None if it
        is that of `query()` to the keys and values of `tokens`; joint attention attends to the image too."""
        return None

    def attention_to_second(self, *, both: bool = False, factor: float = 1.0, offset: float = 0.0) -> Tensor:
        """Z (B, P, h) of the image's attention to itself and to the second prompt that the state of the pass names (see
        `second_prompt`); joint attention alone. The network carries that prompt through its blocks beside the first, and
        neither prompt attends to the other.

        Args:
            both: attend to the first prompt too.
            factor: on the second prompt's values.
            offset: on the scores of its tokens.
        """
        raise NotImplementedError(f"{type(self).__name__} has no second prompt: its attention is not joint")

    @abstractmethod
    def below(self, state: Any = None) -> Tensor:
        """The output (B, P, h) without this extension: that of the extensions attached before it, given `state`, or that
        of the layer itself."""


Extension = Callable[[AttentionCall, Any], Tensor]
"""(call, state of the pass) -> the layer's output (B, P, h). Called in passes with a state alone."""


class Attachment(Protocol):
    """Extensions attached to layers."""

    def intact(self) -> bool:
        """Whether each layer still calls its extension."""

    def remove(self) -> None:
        """Restore the layers to the bit. What another library has put there since stays.

        Raises:
            ConfigError: an extension attached later uses one of these.
        """


class Adaptable(Protocol):
    """What an adapter attaches to: a `Backbone`, or the network of a diffusers pipeline. See `Backbone` for the methods."""

    def context(self, conditioning: Conditioning) -> TokenContext: ...

    def text_attention(self) -> Mapping[str, TextAttention]: ...

    def extend(self, extensions: Mapping[str, Extension]) -> Attachment: ...

    def layers(self) -> Mapping[str, nn.Module]: ...


Encoded = tuple[Conditioning, Conditioning | None, tuple[Any, ...]]
"""Prompts, negative prompts or None, and what a pipeline's `encode_prompt` returned without the negative prompts."""


class NetworkLayers(ABC):
    """The network of a diffusers pipeline as adapters attach to it. See `Backbone` for the methods of `Adaptable`.

    Args:
        network: the module.

    Attributes:
        key: the network's keyword argument whose mapping reaches its attention layers.
        handed: whether the pipelines have a property of that name which they pass on to the network.
        projects: whether it projects its prompt before all layers, whatever the time, so that these receive new tokens in
            each pass.
    """

    key: ClassVar[str]
    handed: ClassVar[bool] = True
    projects: ClassVar[bool] = False

    def __init__(self, network: Any):
        self.network = network

    @staticmethod
    @abstractmethod
    def encoded(returned: tuple[Any, ...]) -> Encoded:
        """Of what the pipeline's `encode_prompt` returned."""

    @abstractmethod
    def context(self, conditioning: Conditioning) -> TokenContext: ...

    @abstractmethod
    def text_attention(self) -> Mapping[str, TextAttention]: ...

    @abstractmethod
    def extend(self, extensions: Mapping[str, Extension]) -> Attachment: ...

    def run(self, state: Any, *args: Any, **kwargs: Any) -> Any:
        """A pass of the network with the state of an adapter, or without one."""
        with carrying(state):
            return self.network(*args, **kwargs, **self.passing(state))

    def passing(self, state: Any) -> dict[str, Any]:
        """The network's keyword arguments in a pass with this state; none without one, or if no layer takes it from them."""
        return {} if state is None or not getattr(self.network, "extensions", 0) else {self.key: {STATE: state}}

    def layers(self) -> dict[str, nn.Module]:
        """See `Backbone.layers`. Raises `ConfigError` if projections are fused: the fused matrix bypasses the layers that it
        was made of."""
        if any(getattr(module, "fused_projections", False) for module in self.network.modules()):
            raise ConfigError("this network's attention projections are fused; call unfuse_qkv_projections() on it first")
        named = ((name.replace(".base_layer", ""), module) for name, module in self.network.named_modules())
        kinds = (nn.Linear, nn.modules.conv._ConvNd)
        return {name: module for name, module in named if isinstance(module, kinds) and ".lora_" not in name}


def encoded_pooled(returned: tuple[Any, ...]) -> Encoded:
    """Of prompts, negative prompts and, in some pipelines, the pooled embeddings of both."""
    positive, negative, *pooled = returned
    without = (positive, None, *((pooled[0], None) if pooled else ()))
    return Conditioning(positive), None if negative is None else Conditioning(negative), without


def encoded_masked(returned: tuple[Any, ...]) -> Encoded:
    """Of prompts, their mask, negative prompts and their mask."""
    positive, mask, negative, negative_mask = returned
    other = None if negative is None else Conditioning(negative, mask=negative_mask.bool())
    return Conditioning(positive, mask=mask.bool()), other, (positive, mask, None, None)
