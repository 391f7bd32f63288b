"""Solvers of the probability-flow ODE, one a file, one signature."""

from sunlab.solvers.base import SOLVERS, Sampler, Solver

__all__ = ["SOLVERS", "Sampler", "Solver"]
