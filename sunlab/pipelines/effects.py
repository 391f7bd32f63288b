"""The effect of the guidance scale and the negative prompt under an adapter."""

from collections.abc import Iterator, Mapping
from typing import Any

from sunlab.adapters import Adapter


def scale_of(adapter: Adapter, header: Mapping[str, Any], given: float | None) -> float:
    """The guidance scale w to sample with: the given one if it acts on the adapter, else the mean of the trained range."""
    low, high = header.get("guidance") or (1.0, 1.0)
    return float(given if given is not None and adapter.steered else (low + high) / 2)


def without_effect(
    adapter: Adapter, header: Mapping[str, Any], *, scale: str, w: float | None, negative: str | None
) -> Iterator[str]:
    """A warning for each argument that has no effect, and for a guidance scale outside the trained range.

    Args:
        scale: the caller's name of the guidance scale.
        w: its value, or None.
        negative: the caller's name of the negative prompt, or None if there is none.
    """
    low, high = header.get("guidance") or (1.0, 1.0)
    if w is not None and adapter.steered and not low <= w <= high:
        yield f"{scale}={w:g} is outside the trained range {low:g} to {high:g}"
    if w not in (None, 0, 1) and not adapter.steered:
        yield (
            f"{scale}={w:g} has no effect: the training fixed the guidance of this adapter; omit it, or use an adapter that "
            "takes a guidance scale (sun_w)"
        )
    if negative is not None and not adapter.uses_negative:
        yield f"{negative} has no effect: this adapter takes no negative prompt"
