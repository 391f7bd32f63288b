"""An SD3Transformer2DModel as adapters attach to it: joint attention, and the projected prompt of its passes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar
from weakref import ref

import torch
from torch import Tensor

from sunlab.backbones.attention import Extension, NetworkLayers, TokenContext, encoded_pooled
from sunlab.backbones.sd3.attention import JointAttachment, JointPass, JointTextAttention, text_attention
from sunlab.backbones.state import STATE, second_prompt
from sunlab.types import Conditioning

KEY = "joint_attention_kwargs"


class SD3Layers(NetworkLayers):
    """A diffusers SD3Transformer2DModel as adapters attach to it."""

    key: ClassVar[str] = KEY
    encoded = staticmethod(encoded_pooled)

    def context(self, conditioning: Conditioning) -> TokenContext:
        """See `Backbone.context`: the tokens after `context_embedder`, as the first block receives them."""
        tokens = self.network.context_embedder(conditioning.tokens.to(self.network.dtype))
        return TokenContext(tokens, conditioning.words if conditioning.mask is None else conditioning.mask)

    def text_attention(self) -> dict[str, JointTextAttention]:
        """The joint attention layers by path, first block to last."""
        return text_attention(self.network)

    def extend(self, extensions: Mapping[str, Extension]) -> "SD3Attachment":
        """See `Backbone.extend`."""
        return SD3Attachment(self.network, extensions)


class SD3Attachment(JointAttachment):
    """Extensions in a transformer, and the hook that gives its layers the projected prompt of each pass.

    Args:
        transformer, extensions: see `UNetAttachment`.
    """

    def __init__(self, transformer: Any, extensions: Mapping[str, Extension]):
        super().__init__(transformer, extensions)
        self.hook = transformer.register_forward_pre_hook(_Projecting(), with_kwargs=True)

    def remove(self) -> None:
        super().remove()
        self.hook.remove()


class _Projecting:
    """Replaces the state in the arguments of a pass by a `JointPass`, and appends its second prompt to the first.

    Without gradients the projected prompt is kept while the same tensor is given, as in the steps of a generation, so that
    what is computed of it is kept too.
    """

    def __init__(self) -> None:
        self.kept: tuple[Any, Any, Tensor] | None = None

    def __call__(self, transformer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = kwargs.get(KEY) or {}
        state = given.get(STATE)
        if state is None or isinstance(state, JointPass):  # none, or another attachment's hook came first
            return None
        prompt = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[1]
        tokens: Callable[[], Tensor] = partial(self.tokens, transformer, prompt)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            # once a pass, outside the blocks that checkpointing recomputes
            tokens = partial(_same, transformer.context_embedder(prompt))
        kwargs = {**kwargs, KEY: {**given, STATE: JointPass(state, tokens, prompt.shape[1])}}
        second, _ = second_prompt(state)
        if second is None:
            return args, kwargs
        both = torch.cat([prompt, second.to(prompt)], dim=1)
        if "encoder_hidden_states" in kwargs:
            return args, {**kwargs, "encoder_hidden_states": both}
        return (args[0], both, *args[2:]), kwargs

    def tokens(self, transformer: Any, prompt: Tensor) -> Tensor:
        """Computed in the first layer that uses it: an offloaded transformer has its weights by then."""
        version = tuple(_version(tensor) for tensor in (prompt, *transformer.context_embedder.parameters()))
        kept = self.kept
        if kept is None or kept[0]() is not prompt or kept[1] != version:
            kept = self.kept = ref(prompt), version, transformer.context_embedder(prompt)
        return kept[2]


def _same(tokens: Tensor) -> Tensor:
    return tokens


def _version(tensor: Tensor) -> tuple[int, int]:
    return id(tensor), 0 if tensor.is_inference() else tensor._version
