"""The numbers: eigenvalues, power law, Marchenko-Pastur edge, norms. Arrays in, values out.

Every function here is pure and depends on numpy and scipy only; nothing reads or changes global random state.
"""

from ww_callbacks.spectra.bulk import edge_threshold, marchenko_pastur_edge, tail_formed
from ww_callbacks.spectra.eigen import eigenvalues, rank_tolerance
from ww_callbacks.spectra.norms import Norms, log_alpha_norm, norm_metrics
from ww_callbacks.spectra.power_law import PowerLawFit, fit_power_law, hill_alpha
from ww_callbacks.spectra.tracy_widom import tracy_widom_isf, tracy_widom_sf

__all__ = [
    "Norms",
    "PowerLawFit",
    "edge_threshold",
    "eigenvalues",
    "fit_power_law",
    "hill_alpha",
    "log_alpha_norm",
    "marchenko_pastur_edge",
    "norm_metrics",
    "rank_tolerance",
    "tail_formed",
    "tracy_widom_isf",
    "tracy_widom_sf",
]
