"""Losses, distances and weightings."""

from sunlab.losses.base import LOSSES, Flow, Loss, Terms
from sunlab.losses.distances import DISTANCES, Distance
from sunlab.losses.weighting import WEIGHTINGS, Weighting

__all__ = ["DISTANCES", "LOSSES", "WEIGHTINGS", "Distance", "Flow", "Loss", "Terms", "Weighting"]
