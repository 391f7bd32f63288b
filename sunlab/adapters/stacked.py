"""What the adapters without training share that act on top of another one, or on the base alone."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from sunlab.adapters.base import ADAPTERS, REPLACED, Adapter, unattached
from sunlab.adapters.state import PassState
from sunlab.backbones.attention import Adaptable, Attachment, Extension, TextAttention, TokenContext
from sunlab.errors import ConfigError
from sunlab.types import Conditioning


class Stacked(Adapter):
    """Extensions without parameters over those of an inner adapter, whose tensors are this adapter's.

    Args:
        inner: the adapter below, a name or a mapping with `name` and parameters; None: whatever the layers run.
        spec: name and parameters, `inner` aside.
    """

    def __init__(self, inner: str | dict[str, Any] | None, **spec: Any):
        super().__init__()
        self.inner: Adapter | None = None if inner is None else ADAPTERS.build(inner, key="adapter.inner")
        self.steered = self.inner is not None and self.inner.steered
        self.changes_weights = self.inner is not None and self.inner.changes_weights
        self.scales = frozenset() if self.inner is None else self.inner.scales
        self.spec = {**spec, "inner": None if self.inner is None else dict(self.inner.spec)}
        self._attachment: Attachment | None = None
        self._context: Callable[[Conditioning], TokenContext] = unattached
        self._joint = False

    @abstractmethod
    def extension(self, path: str, layer: TextAttention) -> Extension:
        """Of one layer."""

    def attach(self, backbone: Adaptable) -> None:
        if self._attachment is not None:
            raise ConfigError("this adapter is attached already; detach it first")
        if self.inner is not None:
            self.inner.attach(backbone)
        layers = backbone.text_attention()
        try:
            self._attachment = backbone.extend({path: self.extension(path, layer) for path, layer in layers.items()})
        except ConfigError:
            if self.inner is not None:
                self.inner.detach()
            raise
        self._context, self._joint = backbone.context, any(layer.joint for layer in layers.values())

    def detach(self) -> None:
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment, self._context = None, unattached
            if self.inner is not None:
                self.inner.detach()

    def check_attached(self) -> None:
        if self._attachment is not None and not self._attachment.intact():
            raise ConfigError(REPLACED)
        if self.inner is not None:
            self.inner.check_attached()

    def state(self, positive: Conditioning, negative: Conditioning | None, guidance: Tensor) -> PassState:
        state: PassState | None = None if self.inner is None else self.inner.state(positive, negative, guidance)
        if state is None or state.negative is None:
            own = PassState.of(None if negative is None else self._context(negative), positive, joint=self._joint)
            taken = {name: getattr(own, name) for name in ("negative", "negative_mask", "positive_mask", "cache")}
            state = own if state is None else replace(state, **taken, in_attention=True)
        if self._joint and negative is not None:
            state = replace(state, second=negative.tokens, second_mask=negative.mask)
        return state

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.inner is None else self.inner.tensors()
