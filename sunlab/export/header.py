"""What an adapter file says of itself."""

from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from typing import Any, get_args

from sunlab.diffusion.grid import Spacing, grid_times
from sunlab.diffusion.path import ProbabilityPath
from sunlab.errors import DataError
from sunlab.types import PredictionType

FORMAT = 2
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_times(value: Any) -> bool:
    """Floats in [0, 1]; or whole steps 999 ... -1, as sunlab wrote them before 0.2."""
    if not isinstance(value, list) or len(value) < 2 or not all(map(_is_number, value)):
        return False
    lowest, highest = (-1, inf) if _is_whole(value) else (0, 1)
    return value == sorted(set(value), reverse=True) and lowest <= value[-1] and value[0] <= highest


def _is_whole(times: Sequence[float]) -> bool:
    return all(isinstance(t, int) for t in times)


def _is_shift(value: Any) -> bool:
    return _is_number(value) and 0 < value < float("inf")


def _is_range(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)))


def _is_base(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("path", {"name": ""}), dict):
        return False
    path, family = value.get("path", {"name": ""}), value.get("backbone", "")
    return all(isinstance(text, str) for text in (value.get("cross_attention"), family, path.get("name")))


FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "adapter": (lambda v: isinstance(v, dict) and isinstance(v.get("name"), str), "the component's name and parameters"),
    "base": (_is_base, "the base's family, a hash of its cross-attention shapes, its path"),
    "prediction_type": (lambda v: v in get_args(PredictionType), "epsilon, v_prediction, sample or flow"),
    "solver": (lambda v: isinstance(v, str), "a solver's name"),
    "spacing": (lambda v: v in (*SPACINGS, "custom"), "trailing, leading, uniform or custom"),
    "shift": (_is_shift, "a shift of the times, above 0"),
    "steps": (_is_count, "a number of steps"),
    "times": (_is_times, "descending times in [0, 1]"),
    "final_alpha": (lambda v: v in ("one", "base"), "one, the default, or base: what the last step's alpha is"),
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


def with_times(header: Mapping[str, Any]) -> dict[str, Any]:
    """The header with its times as floats in [0, 1]; a whole step i of before 0.2 is (i + 1) / 1000."""
    times = header.get("times")
    if times is None:
        return dict(header)
    return {**header, "times": [(t + 1) / 1000 if _is_whole(times) else float(t) for t in times]}


def spacing_of(times: Sequence[float], path: ProbabilityPath, shift: float = 1.0) -> str:
    """Which of the known grids with this shift the times (K + 1) are, by name, or `custom`."""
    for spacing in SPACINGS:
        if tuple(times) == grid_times(len(times) - 1, spacing=spacing, shift=shift, path=path):
            return spacing
    return "custom"
