"""Scatter plot of a metric against the quality of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ww_callbacks.outputs.figures import BLUISH_GREEN, VERMILION, new_axes, plain
from ww_callbacks.report import Comparison
from ww_callbacks.report.layer import label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_quality(comparison: Comparison, metric: str = "alpha_weighted", ax: Axes | None = None) -> Axes:
    """Draw a metric of each model and of its shuffled weights against the quality.

    The models are bluish green discs, their shuffled weights vermilion crosses. If both lie on the same line, scale and
    depth explain the correlation, not the shape of the spectra.

    Args:
        comparison: of models with a quality.
        metric: a mean in the comparison.
        ax: axes to draw into; None for a new figure.

    Raises:
        ValueError: there is no quality, or no such metric.
    """
    found = {each.metric: each for each in comparison.correlations()}
    if not found:
        raise ValueError("comparison: no quality to plot against; pass quality={…} to compare")
    if metric not in found:
        raise ValueError(f"metric: expected one of {', '.join(found)}, got {metric!r}")
    ax = new_axes(ax)
    correlation, quality = found[metric], comparison.quality
    sides = (
        ("models", comparison.reports, correlation.pearson, BLUISH_GREEN, "o"),
        ("shuffled weights", comparison.shuffled, correlation.shuffled_pearson, VERMILION, "x"),
    )
    for label, reports, r, colour, marker in sides:
        points = [(quality[name], reports[name].mean(metric)) for name in quality]
        known = [(x, y) for x, y in points if y is not None]
        x, y = [x for x, _ in known], [y for _, y in known]
        ax.scatter(x, y, label=f"{label}, r = {_number(r)}", color=colour, marker=marker)
    for name in quality:
        mean = comparison.reports[name].mean(metric)
        if mean is not None:
            ax.annotate(
                plain(name), (quality[name], mean), xytext=(4, 4), textcoords="offset points", fontsize="x-small"
            )
    title = f"n = {correlation.n}: {correlation.cause}"
    ax.set(xlabel="quality (as given)", ylabel=f"mean of {label_of(metric)}", title=title)
    ax.margins(0.12)
    ax.legend(fontsize="small", framealpha=0.7)
    return ax


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
