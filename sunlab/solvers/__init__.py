"""Solvers of the probability-flow ODE, one a file, one signature. Open `base.py`, the contract, first; `ddim.py` is the
shortest solver."""

from sunlab.renamed import refuse_former
from sunlab.solvers.base import SOLVERS, Sampler, Solver

__all__ = ["SOLVERS", "Sampler", "Solver"]

__getattr__ = refuse_former(__name__)
