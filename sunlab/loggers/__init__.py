"""Where a run is recorded, over Lightning's own loggers, one a file. Open `base.py` for the contract."""
