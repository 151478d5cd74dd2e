"""`python -m fastreenact` is the command `fastreenact`."""

import sys

from fastreenact.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
