"""Environment variables and working directory of the worker process."""

from __future__ import annotations

import os
import site
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy

import ww_callbacks

_REMOVED_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)
_REMOVED_PREFIXES = ("MASTER_", "PL_", "TORCHELASTIC_", "WANDB_")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of the worker: one BLAS thread, no GPU, no distributed rank, and this package importable."""
    kept = {
        key: value
        for key, value in environment.items()
        if key not in _REMOVED_VARIABLES and not key.startswith(_REMOVED_PREFIXES)
    }
    parents = [str(Path(module.__file__).parents[1]) for module in (ww_callbacks, np, scipy) if module.__file__]
    # site-packages is found anyway; on PYTHONPATH it would come before the standard library.
    default = {*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("purelib")}
    added = (parent for parent in dict.fromkeys(parents) if parent not in default)
    path = [*filter(None, [kept.get("PYTHONPATH")]), *added]
    kept.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    kept.update(CUDA_VISIBLE_DEVICES="", PYTHONPATH=os.pathsep.join(path), PYTHONSAFEPATH="1")
    return kept


def package_parent() -> str:
    """The parent directory of this package. The worker runs there, so user modules cannot shadow others."""
    return str(Path(ww_callbacks.__file__).resolve().parents[1])
