"""How strongly an adapter acts at sampling."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

from sunlab.adapters.base import Adapter
from sunlab.errors import ConfigError

HAS = {"scale": "no offset to scale", "lora_scale": "no LoRA to scale"}


@dataclass(frozen=True)
class Strength:
    """Two factors at sampling: how strong the guidance is, and how much of the step reduction acts. 1 is as trained.

    Attributes:
        scale: on the offset that the adapter adds to its attention layers, P' - N' of SUN; 0: none of it. A steered adapter
            follows the guidance scale too.
        lora_scale: on the update of the adapter's LoRA.
    """

    scale: float = 1.0
    lora_scale: float = 1.0

    def check(self, adapter: Adapter, *, where: str = "") -> "Strength":
        """Raise `ConfigError` for a factor that is no finite number, or one that this adapter has no use for.

        Args:
            where: of the values, before their names in messages: `evaluate.variants.0.`.
        """
        for name in _names():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
                raise ConfigError(f"{where}{name}={value!r}: give a finite number; 1 is as trained")
            if value != 1 and name not in adapter.scales:
                usable = ", ".join(sorted(adapter.scales)) or "neither scale nor lora_scale"
                raise ConfigError(
                    f"{where}{name}={value:g}: {adapter.spec['name']!r} has {HAS[name]}; leave it at 1 (this adapter takes "
                    f"{usable})"
                )
        return self

    def on(self, state: Any) -> Any:
        """The state of the passes of a generation at this strength, without the prompts' padding."""
        state = state.trimmed() if hasattr(state, "trimmed") else state
        return state if self == Strength() else state.scaled(offset=self.scale, lora=self.lora_scale)


def _names() -> Sequence[str]:
    return [field.name for field in fields(Strength)]
