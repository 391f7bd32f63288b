"""The image side of SD3's joint attention as `TextAttention`; extensions are diffusers' attention processors.

In joint attention image and text tokens attend to both, with projections of their own. An extension changes the image stream
alone: it takes the image's queries, and its output passes the image's output projection. The text stream is the base's.
diffusers hands `joint_attention_kwargs` to every processor, so the state of a pass travels there, see `JointPass`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sunlab.backbones.attention import AttentionCall
from sunlab.backbones.sd.attention import Extended, UNetAttachment, UNetTextAttention, Unextended, Wrapper
from sunlab.backbones.state import second_prompt
from sunlab.errors import ConfigError

PLAIN = ("JointAttnProcessor2_0", "FusedJointAttnProcessor2_0")
"""diffusers' processors of plain attention: an extension may compute it itself."""
BESIDE = ("SD3IPAdapterJointAttnProcessor2_0",)
"""Those that add something to the image stream before W_out, which is linear."""


class JointTextAttention(UNetTextAttention):
    """The image side of a joint attention layer: `to_k`, `to_v` and the norm of keys are those of the text tokens, query and
    output projection those of the image.

    Args:
        attn: diffusers' `Attention` with projections of added tokens.
    """

    joint = True

    @property
    def text_width(self) -> int:  # type: ignore[override]
        return int(self.attn.added_kv_proj_dim)

    @property
    def to_k(self) -> nn.Module:  # type: ignore[override]
        return self.attn.add_k_proj

    @property
    def to_v(self) -> nn.Module:  # type: ignore[override]
        return self.attn.add_v_proj

    @property
    def plain(self) -> bool:
        return type(self.attn.processor).__name__ in PLAIN

    @property
    def normalises_keys(self) -> bool:  # type: ignore[override]
        return self.attn.norm_added_k is not None

    def norm_k(self, key: Tensor) -> Tensor:
        return key if self.attn.norm_added_k is None else self.attn.norm_added_k(key)


class JointAttention:
    """What one pass through a layer computes once, however many extensions are stacked there.

    Args:
        attn: diffusers' layer.
        hidden: of the image (B, P, h).
        context: of the text as the block normalised it (B, L, h).
        first: how many tokens of it are the prompt's; those after are a second prompt's, see
            `AttentionCall.attention_to_second`.
        mask: of the second prompt (B, L - first), False where no query attends to it, or None.
    """

    def __init__(self, attn: Any, hidden: Tensor, context: Tensor, first: int, mask: Tensor | None = None):
        self.attn, self.hidden, self.context, self.first, self.mask = attn, hidden, context, first, mask
        self._attended: Tensor | None = None
        self.context_out: Tensor | None = None
        """Output of the prompt's stream, once another processor has computed it."""

    def query(self) -> Tensor:
        """Of the image (B, heads, P, c)."""
        return self._image[0]

    @cached_property
    def _image(self) -> tuple[Tensor, ...]:
        """Query, key and value (B, heads, P, c)."""
        attn = self.attn
        return self._split((attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), self.hidden)

    @cached_property
    def _text(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Query, key and value (B, heads, L, c) of the prompt, and of the second one."""
        attn = self.attn
        projections = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
        parts = self._split(projections, (attn.norm_added_q, attn.norm_added_k), self.context)
        if self.first == self.context.shape[1]:
            return parts, ()
        return tuple(x[:, :, : self.first] for x in parts), tuple(x[:, :, self.first :] for x in parts)

    def attended(self) -> Tensor:
        """The attention of image and prompt over both, before the output projections (B, P + L, h)."""
        if self._attended is None:
            (query, key, value), (of_text, *text) = self._image, self._text[0]
            self._attended = self._attend(torch.cat([query, of_text], dim=2), (key, value), text)
        return self._attended

    def of_image(self) -> Tensor:
        """Z (B, P, h), a copy that may be changed in place."""
        return self.attended()[:, : self.hidden.shape[1]].clone()

    def to_second(self, *, both: bool, factor: float, offset: float) -> Tensor:
        """See `AttentionCall.attention_to_second`."""
        query, *image = self._image
        first, (_, key, value) = self._text[0][1:], self._text[1]
        second = key, value if factor == 1 else factor * value
        return self._attend(query, image, *((first,) if both else ()), second, masked=True, offset=offset)

    def output_of_text(self) -> Tensor:
        """The output of the text stream (B, L, h); the last block drops it."""
        if self.attn.context_pre_only:
            return self.context
        image = self._image[1:]
        first, text = self._text
        if self.context_out is not None:
            out = self.context_out
        elif self._attended is not None:
            out = self.attn.to_add_out(self._attended[:, self.hidden.shape[1] :])
        else:
            out = self.attn.to_add_out(self._attend(first[0], image, first[1:]))
        if self.first == self.context.shape[1]:
            return out
        second = self.attn.to_add_out(self._attend(text[0], image, text[1:], masked=True))
        return torch.cat([out, second], dim=1)

    def _attend(self, query: Tensor, *seen: Sequence[Tensor], masked: bool = False, offset: float = 0.0) -> Tensor:
        """Attention (B, Q, h) of a query to several keys and values. The last ones are the second prompt's if `masked`;
        `offset` is added to their scores."""
        key, value = (torch.cat(parts, dim=2) for parts in zip(*seen, strict=True))
        bias = None
        if masked and (offset or self.mask is not None):
            bias = query.new_zeros(len(query), 1, 1, key.shape[2])
            last = bias[..., key.shape[2] - seen[-1][0].shape[2] :]
            last += offset
            if self.mask is not None:
                last.masked_fill_(~self.mask[:, None, None], -torch.inf)
        return scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)

    def _split(self, projections: Sequence[nn.Module], norms: Sequence[nn.Module | None], x: Tensor) -> tuple[Tensor, ...]:
        """Of x (B, L, h), each (B, heads, L, c)."""
        parts = [project(x).unflatten(-1, (self.attn.heads, -1)).transpose(1, 2) for project in projections]
        return tuple(part if norm is None else norm(part) for part, norm in zip(parts, (*norms, None), strict=True))


@dataclass(frozen=True)
class JointPass:
    """What the layers receive in a pass with a state.

    Attributes:
        state: of the adapter.
        tokens: returns the prompt's tokens after the network's own projection (B, L, d).
        first: how many there are, before those of a second prompt.
        joint: of the layer that runs; None before the first extension.
    """

    state: Any
    tokens: Callable[[], Tensor]
    first: int
    joint: JointAttention | None = None


@dataclass(frozen=True)
class JointCall(AttentionCall):
    """A call of an extended layer.

    Attributes:
        processor: the extension's.
        given: the pass.
        joint: what is computed once.
        attention_mask, more: as diffusers passes them.
    """

    layer: JointTextAttention
    processor: "JointExtended"
    given: JointPass
    joint: JointAttention
    attention_mask: Tensor | None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hidden(self) -> Tensor:  # type: ignore[override]
        return self.joint.hidden

    @property
    def tokens(self) -> Tensor:  # type: ignore[override]
        return self.given.tokens()

    @property
    def plain(self) -> bool:  # type: ignore[override]
        return type(self.processor.base).__name__ in PLAIN

    def query(self) -> Tensor:
        return self.joint.query()

    def mask(self) -> Tensor | None:
        return None

    def attention(self) -> Tensor:
        return self.joint.of_image()

    def attention_to_second(self, *, both: bool = False, factor: float = 1.0, offset: float = 0.0) -> Tensor:
        return self.joint.to_second(both=both, factor=factor, offset=offset)

    def below(self, state: Any = None) -> Tensor:
        if self.plain:
            return self.layer.out(self.joint.of_image())
        given = None if state is None else replace(self.given, state=state, joint=self.joint)
        joint, processor = self.joint, self.processor
        context = joint.context[:, : joint.first]
        image, text = processor.below(joint.attn, joint.hidden, context, self.attention_mask, given, self.more)
        joint.context_out = text[:, : joint.first]
        return image


class JointWrapper(Wrapper):
    """A processor on top of another one, which takes what an IP-Adapter's takes."""

    def __call__(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        sun: Any = None,
        ip_hidden_states: Any = None,  # diffusers passes on what a processor's signature names, and warns of the rest
        **more: Any,
    ) -> Any:
        if ip_hidden_states is not None and "ip_hidden_states" in self.takes:
            more["ip_hidden_states"] = ip_hidden_states
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb, sun, **more)

    __call__.__signature__ = signature(__call__)  # type: ignore[attr-defined]  # see `Wrapper`


class JointExtended(JointWrapper, Extended):
    """The processor of a joint attention layer with an extension. Without a state it is the one below."""

    def respond(self, attn: Any, hidden: Tensor, context: Any, mask: Tensor | None, state: Any, more: dict[str, Any]) -> Any:
        if state is None:
            return self.below(attn, hidden, context, mask, None, more)
        if len(context) != len(hidden):
            raise ConfigError(
                f"the latents have {len(hidden)} rows, the prompt embeddings {len(context)}; a callback that changes the "
                "batch must change latents, prompt_embeds and negative_prompt_embeds alike"
            )
        joint = state.joint or JointAttention(attn, hidden, context, state.first, second_prompt(state.state)[1])
        call = JointCall(JointTextAttention(attn), self, state, joint, mask, more)
        return self.extension(call, state.state), joint.output_of_text()


class JointUnextended(JointWrapper, Unextended):
    """The processor of a layer over the image alone (`attn2`), which receives the state too and drops it."""


def text_attention(transformer: Any) -> dict[str, JointTextAttention]:
    """The joint attention layers of an SD3Transformer2DModel by path, in its order; `attn2` attends to the image alone."""
    paths = [name.removesuffix(".processor") for name in transformer.attn_processors]
    layers = {path: transformer.get_submodule(path) for path in paths}
    return {path: JointTextAttention(attn) for path, attn in layers.items() if attn.added_kv_proj_dim is not None}


class JointAttachment(UNetAttachment):
    """Extensions in an SD3Transformer2DModel. Other libraries' processors are never removed."""

    extended: ClassVar[type[Extended]] = JointExtended
    unextended: ClassVar[type[Unextended]] = JointUnextended
    composable: ClassVar[tuple[str, ...]] = PLAIN + BESIDE

    @staticmethod
    def find(unet: Any) -> Mapping[str, UNetTextAttention]:
        return text_attention(unet)
