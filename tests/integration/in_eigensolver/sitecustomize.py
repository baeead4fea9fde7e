"""On PYTHONPATH, it makes a worker tell the test when it computes the eigenvalues of a large layer."""

import os
import sys
from pathlib import Path

if "ww_callbacks.worker" in sys.orig_argv:
    from ww_callbacks.spectra import eigen

    compute = eigen.symmetric_eigenvalues
    folder = Path(os.environ["WW_TEST_FOLDER"])

    def announced(matrix):
        large = len(matrix) >= 3000
        if large:
            (folder / "eigensolver entered").touch()
        values = compute(matrix)
        if large:
            (folder / "eigensolver left").touch()
        return values

    eigen.symmetric_eigenvalues = announced
