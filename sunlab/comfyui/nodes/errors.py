"""The error that these nodes raise."""


class DataError(Exception):
    """An adapter, a model or a conditioning that cannot be used; says which, why, and the remedy."""
