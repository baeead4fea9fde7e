"""Run the command ``ww-callbacks`` as ``python -m ww_callbacks``."""

import sys

from ww_callbacks.cli import main

if __name__ == "__main__":
    sys.exit(main())
