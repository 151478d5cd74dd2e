"""`python -m fastreenact` is the command `fastreenact`."""

import sys

from fastreenact.cli import main

if __name__ == "__main__":
    sys.exit(main())
