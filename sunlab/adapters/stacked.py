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

    @abstractmethod
    def extension(self, path: str, layer: TextAttention) -> Extension:
        """Of one layer."""

    def attach(self, backbone: Adaptable) -> None:
        if self._attachment is not None:
            raise ConfigError("this adapter is attached already; detach it first")
        if self.inner is not None:
            self.inner.attach(backbone)
        try:
            self._attachment = backbone.extend({p: self.extension(p, a) for p, a in backbone.text_attention().items()})
        except ConfigError:
            if self.inner is not None:
                self.inner.detach()
            raise
        self._context = backbone.context

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
        below: PassState | None = None if self.inner is None else self.inner.state(positive, negative, guidance)
        if below is not None and below.negative is not None:
            return below
        own = PassState.of(None if negative is None else self._context(negative))
        if below is None:
            return own
        return replace(below, negative=own.negative, negative_mask=own.negative_mask, cache=own.cache, in_attention=True)

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.inner is None else self.inner.tensors()
