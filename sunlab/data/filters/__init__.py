"""Filters: which samples a run trains on, by what the json beside them says. Open `base.py`, the contract, first."""

from sunlab.data.filters.base import FILTERS, Facts, Filter

__all__ = ["FILTERS", "Facts", "Filter"]
