"""The environment in which the worker process starts."""

from __future__ import annotations

import os
import site
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy

import ww_callbacks

_FOREIGN_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)
_FOREIGN_PREFIXES = ("MASTER_", "PL_", "TORCHELASTIC_", "WANDB_")
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment: one BLAS thread, no device, no rank, and this package in reach."""
    kept = {
        key: value
        for key, value in environment.items()
        if key not in _FOREIGN_VARIABLES and not key.startswith(_FOREIGN_PREFIXES)
    }
    homes = [str(Path(module.__file__).parents[1]) for module in (ww_callbacks, np, scipy) if module.__file__]
    # What is installed in the usual place is found there; on PYTHONPATH it would come before the standard library.
    usual = {*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("purelib")}
    path = [*filter(None, [kept.get("PYTHONPATH")]), *(home for home in dict.fromkeys(homes) if home not in usual)]
    kept.update(dict.fromkeys(_ONE_THREAD, "1"))
    kept.update(CUDA_VISIBLE_DEVICES="", PYTHONPATH=os.pathsep.join(path), PYTHONSAFEPATH="1")
    return kept


def package_parent() -> str:
    """The folder that holds this package: where the worker runs, so that no module of the user's comes first."""
    return str(Path(ww_callbacks.__file__).resolve().parents[1])
