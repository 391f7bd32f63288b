"""`python -m sunlab`."""

import sys

from sunlab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
