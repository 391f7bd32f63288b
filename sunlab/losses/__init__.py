"""Distillation losses, one a file, distances between states, and weightings of times. Open `base.py`, the
contract, first, then `msc.py`, the paper's loss."""

from sunlab.losses.base import LOSSES, BoundSampler, Loss, LossOutput
from sunlab.losses.distances import DISTANCES, Distance
from sunlab.losses.weighting import WEIGHTINGS, Weighting
from sunlab.renamed import refuse_former

__all__ = ["DISTANCES", "LOSSES", "WEIGHTINGS", "BoundSampler", "Distance", "Loss", "LossOutput", "Weighting"]

__getattr__ = refuse_former(__name__)
