"""Analysis settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ww_callbacks.analysis.flat import flat
from ww_callbacks.checks import check_count
from ww_callbacks.spectra import Precision
from ww_callbacks.spectra.short import SHORT, SHORTEST

ConvScale = Literal["weightwatcher", "paper", "none"]
Interval = Literal["asymptotic", "bootstrap"]
Fit = Literal["PL", "TPL"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Analysis settings, as plain values that can be sent to the worker.

    Attributes:
        conv_scale: factor on the eigenvalues of a convolution with rf kernel positions: "weightwatcher" (½, its current
            default), "paper" (rf/2, as in the published figures) or "none". Alpha does not depend on it.
        randomize: compare each layer with a shuffled copy of itself to detect correlation traps.
        precision: "float64", or "float32", which takes about three quarters of the time and adds a small error to
            alpha. The error is estimated.
        interval: confidence interval of alpha: "asymptotic", or "bootstrap", which refits xmin in each replicate.
        fit: "PL" for a power law, or "TPL" for a truncated power law (alpha and Lambda) on the tail of the power law.
        seed: seed ≥ 0 of the shuffle and of all resampling.
        gof: compute the goodness of fit, ``gof_pvalue``. It costs 200 fits per layer.
        farms: compute ``alpha_farms``, which the shape of a layer does not bias. It decomposes ⌈N/M⌉ square windows of
            each matrix.
        compare: compare the power law with an exponential, a log-normal and a truncated power law.
        spectrum: include all eigenvalues in the report.
        min_evals: minimum number of eigenvalues that are not 0 for a fit, at least 8. Spectra of 8 to 19 are fitted as
            by :func:`ww_callbacks.spectra.fit_short_power_law`; alpha then says little and is never ``reliable``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has an invalid value.
    """

    conv_scale: ConvScale = "weightwatcher"
    randomize: bool = True
    precision: Precision = "float64"
    interval: Interval = "asymptotic"
    fit: Fit = "PL"
    seed: int = 0
    gof: bool = False
    farms: bool = False
    compare: bool = False
    spectrum: bool = False
    min_evals: int = SHORT

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                expected = " or ".join(f'"{choice}"' for choice in allowed)
                raise ValueError(f"{name}: expected {expected}, got {value!r}")
        for name in ("randomize", "gof", "farms", "compare", "spectrum"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed: expected an integer, got {self.seed!r}")
        if self.seed < 0:
            raise ValueError(f"seed: expected at least 0, got {self.seed}")
        if (self.interval, self.fit) == ("bootstrap", "TPL"):
            raise ValueError('interval: "bootstrap" requires fit="PL"')
        check_count("min_evals", self.min_evals, least=SHORTEST)
        if self.min_evals < SHORT and (self.interval, self.fit) != ("asymptotic", "PL"):
            raise ValueError(
                f'min_evals: below {SHORT} requires fit="PL" and interval="asymptotic", got {self.min_evals} with '
                f"{self.fit!r} and {self.interval!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dict that can be written as JSON."""
        return flat(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """The inverse of :meth:`to_dict`. Missing settings keep their defaults.

        Raises:
            ValueError: a name is unknown, or a value is invalid.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"values: unknown settings {sorted(unknown)}")
        return cls(**values)


_CHOICES: dict[str, tuple[str, ...]] = {
    "conv_scale": get_args(ConvScale),
    "precision": get_args(Precision),
    "interval": get_args(Interval),
    "fit": get_args(Fit),
}
