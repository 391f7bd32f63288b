"""`python -m sunlab`."""

import signal
import sys

from sunlab.cli.main import main

if __name__ == "__main__":
    code = main()
    # Where one rank fails srun ends the others, and takes the largest code of all: not 143 of one that leaves with its own.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code)
