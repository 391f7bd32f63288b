"""The commands, one a file: each parses its arguments and calls the Python API, `sunlab.app` above all. Heavy imports
wait for the call, so `--help` is instant. Open `main.py` first, then the command of interest."""
