"""What an adapter file says of itself."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from sunlab.diffusion.timesteps import grid
from sunlab.errors import DataError

FORMAT = 2


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_times(value: Any) -> bool:
    whole = isinstance(value, list) and all(isinstance(t, int) and not isinstance(t, bool) for t in value)
    return whole and len(value) > 1 and value == sorted(set(value), reverse=True) and value[-1] >= -1


def _is_range(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)))


def _is_base(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("cross_attention"), str)


FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "adapter": (lambda v: isinstance(v, dict) and isinstance(v.get("name"), str), "the plug's name and parameters"),
    "base": (_is_base, "the base family, and a hash of the U-Net's cross-attention shapes"),
    "prediction_type": (lambda v: v in ("epsilon", "v_prediction"), "epsilon or v_prediction"),
    "solver": (lambda v: isinstance(v, str), "a solver's name"),
    "spacing": (lambda v: v in ("trailing", "leading", "custom"), "trailing, leading or custom"),
    "steps": (_is_count, "a number of steps"),
    "times": (_is_times, "descending whole times"),
    "guidance": (_is_range, "[lowest, highest] trained guidance scale, or null where it is not known"),
    "training": (lambda v: isinstance(v, dict), "a summary of the training"),
    "dtype": (lambda v: v in ("float16", "bfloat16", "float32"), "float16, bfloat16 or float32"),
}
"""Field -> its check, and what it holds. Only `adapter` must be there."""


def check_header(header: Mapping[str, Any], where: str) -> None:
    """Raise `DataError` for a header that is of another format, or a field that is not what it should be, by name."""
    if header.get("format") != FORMAT:
        raise DataError(
            f"{where}: format {header.get('format')}, this version reads {FORMAT}; update sunlab, or export it again"
        )
    if "adapter" not in header:
        raise DataError(f"{where}: its header does not say which adapter it holds; was it written by another program?")
    for name, (check, meaning) in FIELDS.items():
        if name in header and not check(header[name]):
            raise DataError(f"{where}: header: {name}: expected {meaning}, got {header[name]!r}")


def spacing_of(times: Sequence[int], train_steps: int) -> str:
    """Which of the known grids the times (K + 1) are: `trailing`, `leading`, or `custom`."""
    for spacing in ("trailing", "leading"):
        if list(times) == grid(len(times) - 1, spacing=spacing, train_steps=train_steps).tolist():
            return spacing
    return "custom"
