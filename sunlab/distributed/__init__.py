"""Several processes as one run: the ranks that a launcher started, the signals that stop them, and noticing one that died.
Start with `ranks.py`."""
