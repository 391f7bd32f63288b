"""The theory: probability paths over continuous time, what a model predicts, grids of times, guidance. Open `path.py`."""
