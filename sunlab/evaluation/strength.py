"""How far a fine-tune went from the base that it came from."""

from collections.abc import Mapping

from torch import Tensor

from sunlab.errors import DataError


def strength(origin: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> float:
    """|delta theta| / |theta|: the norm of all weights' changes over the norm of the origin's, in float64.

    Args:
        origin, tuned: state dicts of two U-Nets of one architecture.

    Raises:
        DataError: the architectures differ.
    """
    if origin.keys() != tuned.keys() or any(origin[k].shape != tuned[k].shape for k in origin):
        raise DataError("the two U-Nets differ in architecture, so the one is no fine-tune of the other")
    moved = sum(float((tuned[k].double() - origin[k].double()).square().sum()) for k in origin)
    whole = sum(float(value.double().square().sum()) for value in origin.values())
    return (moved / whole) ** 0.5
