"""Losses, distances and weightings."""

from sunlab.losses.base import LOSSES, BoundSampler, Loss, LossOutput
from sunlab.losses.distances import DISTANCES, Distance
from sunlab.losses.weighting import WEIGHTINGS, Weighting

__all__ = ["DISTANCES", "LOSSES", "WEIGHTINGS", "BoundSampler", "Distance", "Loss", "LossOutput", "Weighting"]

RENAMED = {"Terms": "LossOutput", "Flow": "BoundSampler"}


def __getattr__(name: str) -> object:
    if name in RENAMED:
        raise ImportError(f"sunlab.losses.{name} is now sunlab.losses.{RENAMED[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
