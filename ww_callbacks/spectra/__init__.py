"""Spectral metrics as functions of arrays: eigenvalues, power law, Marchenko-Pastur bulk, shuffled control, norms.

All functions are pure and depend on numpy and scipy only. None reads or changes global random state.
"""

from ww_callbacks.spectra.alternatives import LikelihoodRatioTest, compare_alternatives
from ww_callbacks.spectra.bulk import LEVEL, edge_threshold, element_variance, marchenko_pastur_edge
from ww_callbacks.spectra.bulk_fit import MarchenkoPasturFit, marchenko_pastur
from ww_callbacks.spectra.candidates import XminCandidates, stable_alpha, xmin_candidates
from ww_callbacks.spectra.control import ShuffledControl, shuffle_matrix, shuffled_control, spectral_distance
from ww_callbacks.spectra.directions import num_directions
from ww_callbacks.spectra.effective_rank import det_x_size
from ww_callbacks.spectra.eigen import (
    Precision,
    eigenvalues,
    float32_error,
    magnitude,
    numerical_rank,
    rank_tolerance,
    singular_values,
    storage_error,
)
from ww_callbacks.spectra.factors import factor_singular_values, rank_used
from ww_callbacks.spectra.farms import farms_alpha, pooled_alpha
from ww_callbacks.spectra.goodness import goodness_of_fit
from ww_callbacks.spectra.histogram import log_histogram
from ww_callbacks.spectra.interval import asymptotic_interval, bootstrap_interval, near_tied_interval, rounding_shift
from ww_callbacks.spectra.norms import Norms, frobenius_norm, log_alpha_norm, norm_metrics, relative_distance
from ww_callbacks.spectra.null import NullTest, null_test, separable_edge, unfolded
from ww_callbacks.spectra.power_law import PowerLawFit, fit_power_law, hill_alpha
from ww_callbacks.spectra.short import fit_short_power_law, short_interval
from ww_callbacks.spectra.subspace import Leading, leading_directions, num_intruders, rotation, subspace_loss
from ww_callbacks.spectra.tracy_widom import tracy_widom_isf, tracy_widom_sf
from ww_callbacks.spectra.traps import TrapCause, TrapKind, trap_cause
from ww_callbacks.spectra.truncated import TruncatedPowerLawFit, fit_truncated_power_law

__all__ = [
    "LEVEL",
    "Leading",
    "LikelihoodRatioTest",
    "MarchenkoPasturFit",
    "Norms",
    "NullTest",
    "PowerLawFit",
    "Precision",
    "ShuffledControl",
    "TrapCause",
    "TrapKind",
    "TruncatedPowerLawFit",
    "XminCandidates",
    "asymptotic_interval",
    "bootstrap_interval",
    "compare_alternatives",
    "det_x_size",
    "edge_threshold",
    "eigenvalues",
    "element_variance",
    "factor_singular_values",
    "farms_alpha",
    "fit_power_law",
    "fit_short_power_law",
    "fit_truncated_power_law",
    "float32_error",
    "frobenius_norm",
    "goodness_of_fit",
    "hill_alpha",
    "leading_directions",
    "log_alpha_norm",
    "log_histogram",
    "magnitude",
    "marchenko_pastur",
    "marchenko_pastur_edge",
    "near_tied_interval",
    "norm_metrics",
    "null_test",
    "num_directions",
    "num_intruders",
    "numerical_rank",
    "pooled_alpha",
    "rank_tolerance",
    "rank_used",
    "relative_distance",
    "rotation",
    "rounding_shift",
    "separable_edge",
    "short_interval",
    "shuffle_matrix",
    "shuffled_control",
    "singular_values",
    "spectral_distance",
    "stable_alpha",
    "storage_error",
    "subspace_loss",
    "tracy_widom_isf",
    "tracy_widom_sf",
    "trap_cause",
    "unfolded",
    "xmin_candidates",
]
