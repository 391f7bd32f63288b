"""The use cases, one a file: what the command line and notebooks call. Start with `fit.py`; what several of them build
alike is in `compose.py`."""
