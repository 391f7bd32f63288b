"""Solvers of the probability-flow ODE, one a file, one signature."""

from sunlab.solvers.base import SOLVERS, Sampling, Solver

__all__ = ["SOLVERS", "Sampling", "Solver"]
