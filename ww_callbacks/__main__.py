"""``python -m ww_callbacks`` is the command ``ww-callbacks``."""

import sys

from ww_callbacks.cli import main

if __name__ == "__main__":
    sys.exit(main())
