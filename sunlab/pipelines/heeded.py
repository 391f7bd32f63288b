"""What an adapter makes of the guidance scale and the negative prompt that it is asked for."""

from collections.abc import Iterator, Mapping
from typing import Any

from sunlab.adapters import Adapter


def scale_of(adapter: Adapter, header: Mapping[str, Any], asked: float | None) -> float:
    """The guidance scale w to draw with: what was asked for where it is heeded, else the mean of the training."""
    low, high = header.get("guidance") or (1.0, 1.0)
    return float(asked if asked is not None and adapter.steered else (low + high) / 2)


def unheeded(
    adapter: Adapter, header: Mapping[str, Any], *, scale: str, w: float | None, negative: str | None
) -> Iterator[str]:
    """A sentence on each thing that was asked for and has no effect, or none that was trained.

    Args:
        scale: what the caller calls the guidance scale.
        w: as asked for, or None.
        negative: what the caller calls a negative prompt, or None where there is none.
    """
    low, high = header.get("guidance") or (1.0, 1.0)
    if w is not None and adapter.steered and not low <= w <= high:
        yield f"{scale}={w:g} is outside the trained range {low:g} to {high:g}"
    if w not in (None, 0, 1) and not adapter.steered:
        yield (
            f"{scale}={w:g} has no effect: the guidance of this adapter was fixed by its training; leave it out, or plug in "
            "an adapter that is steered"
        )
    if negative is not None and not adapter.uses_negative:
        yield f"{negative} has no effect: this adapter takes no negative prompt"
