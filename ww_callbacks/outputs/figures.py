"""Figures: each function draws into one matplotlib axes and returns it.

Without ``ax=`` a new figure is created. It is a pyplot figure if pyplot has been imported or the program runs in a
notebook kernel, so that ``plt.show()`` and the notebook display it. Otherwise it needs no display and is freed with its
last reference. Save it with ``ax.figure.savefig(...)``.

The colours are those of Okabe and Ito (2008), which are distinguishable with any colour vision; line styles differ too.
"""

from __future__ import annotations

import io
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ww_callbacks.printable import escaped, quoted, shown_text
from ww_callbacks.report.layer import COLUMNS, label_of

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("drawing needs matplotlib: pip install ww_callbacks[plot]") from error

if TYPE_CHECKING:
    from ww_callbacks.report import History, LayerReport, Report
    from ww_callbacks.spectra.types import Floats

BLUISH_GREEN, VERMILION, ORANGE, BLUE, GREY, BLACK = "#009E73", "#D55E00", "#E69F00", "#0072B2", "0.45", "black"
SIZE = (6.4, 4.0)
"""Size of a new figure in inches."""

_STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUISH_GREEN, "linestyle": "-", "marker": "o"},
    {"color": VERMILION, "linestyle": "--", "marker": "s"},
    {"color": BLUE, "linestyle": "-.", "marker": "^"},
    {"color": ORANGE, "linestyle": ":", "marker": "D"},
    {"color": BLACK, "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
)
_MAX_NAME = 28
_MAX_TICKS = 32
_HIGHEST_ALPHA = 8.0


def draw_esd(layer: LayerReport, ax: Axes | None = None) -> Axes:
    """Draw the empirical spectral density of one layer and of its shuffled weights, with logarithmic axes.

    The layer is bluish green and solid, its shuffled control vermilion and dashed, the largest eigenvalue of the
    control an orange dash-dotted line, the fitted power law black and dotted. A layer that has learned reaches far
    beyond its control; an orange line far right of the control's bulk is a correlation trap, or the weights are very
    uneven. Bins are equal in log10 λ, so the power law falls with the slope 1 - alpha. Eigenvalues more than 5 decades
    below the largest are not shown.

    Source: Martin and Mahoney, *Implicit self-regularization in deep neural networks* (2021), for the picture.

    Args:
        layer: with a histogram, as all analysed layers have; in a history only those of the latest report.
        ax: axes to draw into; None for a new figure.

    Raises:
        ValueError: the layer has no histogram.

    Example:
        >>> import numpy as np
        >>> import ww_callbacks as ww
        >>> report = ww.analyze({"fc": np.random.default_rng(0).standard_normal((300, 100))})
        >>> draw_esd(report["fc"]).get_xscale()
        'log'
    """
    if layer.histogram is None:
        why = layer.reason or "histograms are kept in the latest report of a run only"
        raise ValueError(f"layer {quoted(layer.name)} has no spectrum to draw: {shown_text(why)}")
    ax = new_axes(ax)
    histogram = layer.histogram
    edges = np.logspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    ax.stairs(histogram.counts, edges, fill=True, color=BLUISH_GREEN, alpha=0.3)
    ax.stairs(histogram.counts, edges, baseline=None, color=BLUISH_GREEN, linewidth=1.4, label="this layer")
    if histogram.rand_counts is not None:
        ax.stairs(
            histogram.rand_counts,
            edges,
            baseline=None,
            color=VERMILION,
            linestyle="--",
            linewidth=1.4,
            label="shuffled",
        )
    if layer.max_rand_eval is not None:
        ax.axvline(layer.max_rand_eval, color=ORANGE, linestyle="-.", linewidth=1.6, label="largest shuffled λ")
    _draw_fit(ax, layer, edges)
    tallest = max(*histogram.counts, *(histogram.rand_counts or (1,)))
    ax.set(xscale="log", yscale="log", xlim=(max(edges[0], edges[-1] / 1e5), edges[-1] * 1.3), ylim=(0.5, tallest * 2))
    ax.minorticks_off()
    ax.set(xlabel="eigenvalue λ of WᵀW (squared unit of the weights)", ylabel="eigenvalues per bin of log10 λ")
    ax.set_title(esd_title(layer), fontsize="medium")
    ax.legend(fontsize="small", framealpha=0.7)
    return ax


def draw_correlation_flow(report: Report, ax: Axes | None = None) -> Axes:
    """Draw alpha as a function of depth, with 95 % intervals, and alpha of the shuffled weights.

    Well-trained networks show a small and nearly constant alpha.

    Source: Martin, Peng and Mahoney, *Predicting trends in the quality of state-of-the-art neural networks* (2021).

    Args:
        report: of a model; layers without a fit are left out.
        ax: axes to draw into; None for a new figure.
    """
    ax = new_axes(ax)
    fitted = [layer for layer in report.layers if layer.is_fitted]
    alpha = np.array([layer.alpha for layer in fitted], dtype=float)
    reach = [
        [_distance(layer.alpha_low, layer.alpha) for layer in fitted],
        [_distance(layer.alpha, layer.alpha_high) for layer in fitted],
    ]
    depths = range(len(fitted))
    ax.errorbar(depths, alpha, yerr=reach, color=BLUISH_GREEN, elinewidth=0.8, linestyle="none", label="95 % interval")
    ax.plot(depths, alpha, color=BLUISH_GREEN, marker="o", markersize=4, linewidth=1.4, label="alpha")
    shuffled = [(depth, layer.rand_alpha) for depth, layer in enumerate(fitted) if layer.rand_alpha is not None]
    if shuffled:
        ax.plot(
            *zip(*shuffled, strict=True), color=VERMILION, marker="x", linestyle="--", linewidth=1, label="shuffled"
        )
    _mark_words(ax.axhline)
    ax.set(xlabel="depth (fitted layers, in model order)", ylabel=label_of("alpha"), title="Correlation flow")
    _label_layers(ax.set_xticks, [layer.name for layer in fitted], rotation=90)
    if fitted:
        ax.legend(fontsize="small", framealpha=0.7)
    return ax


def draw_correlation_flows(reports: Mapping[str, Report], ax: Axes | None = None) -> Axes:
    """Draw alpha as a function of relative depth for several models.

    Args:
        reports: name → report of a model; layers without a fit are left out.
        ax: axes to draw into; None for a new figure.
    """
    ax = new_axes(ax)
    for (name, report), style in zip(reports.items(), itertools.cycle(_STYLES)):
        alpha = report.correlation_flow().alpha
        ax.plot(np.linspace(0, 1, len(alpha)), alpha, label=plain(name), linewidth=1.4, markersize=4, **style)
    _mark_words(ax.axhline)
    ax.set(xlabel="relative depth (first to last fitted layer)", ylabel=label_of("alpha"), title="Correlation flow")
    if reports:
        ax.legend(fontsize="small", framealpha=0.7)
    return ax


def draw_alpha_histogram(report: Report, ax: Axes | None = None) -> Axes:
    """Draw the distribution of alpha over the layers and over their shuffled controls.

    Args:
        report: of a model; layers without a fit are left out.
        ax: axes to draw into; None for a new figure.
    """
    ax = new_axes(ax)
    alpha = [layer.alpha for layer in report.layers if layer.is_fitted and layer.alpha is not None]
    shuffled = [layer.rand_alpha for layer in report.layers if layer.rand_alpha is not None]
    low, high = (math.floor(min(alpha + shuffled)), math.ceil(max(alpha + shuffled))) if alpha else (0, 1)
    edges = np.linspace(low, high, min(2 * max(high - low, 1), 40) + 1).tolist()
    if alpha:
        ax.hist(alpha, edges, color=BLUISH_GREEN, alpha=0.6, label=f"layers ({len(alpha)} fitted)")
    if shuffled:
        ax.hist(shuffled, edges, color=VERMILION, histtype="step", linestyle="--", linewidth=1.4, label="shuffled")
    _mark_words(ax.axvline)
    ax.set(xlabel=label_of("alpha"), ylabel="number of layers", title="Alpha of the layers")
    if alpha:
        ax.legend(fontsize="small", framealpha=0.7)
    return ax


def draw_layer_map(history: History, metric: str = "alpha", ax: Axes | None = None) -> Axes:
    """Draw one metric of all layers at all steps as a map: layers from top to bottom, steps from left to right.

    The colours of alpha run from 1 to 8 in every map, so that maps can be compared; a layer without a value is grey.

    Args:
        history: of a run.
        metric: a numeric column of LayerReport.
        ax: axes to draw into; None for a new figure.

    Raises:
        ValueError: the history is empty, or the metric is not a numeric column.
    """
    values = _values(history, metric)
    return draw_map(_steps(history), [layer.name for layer in history[-1].layers], values, metric, ax)


def draw_map(
    steps: Sequence[float] | Floats,
    names: Sequence[str],
    values: Sequence[Sequence[float | None]] | Floats,
    metric: str = "alpha",
    ax: Axes | None = None,
) -> Axes:
    """Draw the map of :func:`draw_layer_map` from plain values.

    Args:
        steps: shape (n,), at least one.
        names: of the layers.
        values: shape (layers, n); None or NaN for missing values.
        metric: name of the values.
        ax: axes to draw into; None for a new figure.
    """
    ax = new_axes(ax)
    limits: dict[str, Any] = {"vmin": 1.0, "vmax": _HIGHEST_ALPHA} if metric in ("alpha", "rand_alpha") else {}
    ax.set_facecolor("0.8")
    mesh = ax.pcolormesh(
        _between(np.asarray(steps, dtype=float)),
        np.arange(len(names) + 1),
        np.ma.masked_invalid(np.asarray(values, dtype=float)),
        cmap="cividis",
        **limits,
    )
    bar = ax.figure.colorbar(mesh, ax=ax, extend="max" if limits else "neither")
    bar.set_label(label_of(metric))
    _label_layers(ax.set_yticks, names, offset=0.5)
    ax.set(xlabel="optimizer steps", ylim=(len(names), 0), title=f"{metric} of each layer")
    return ax


def draw_history(history: History, metric: str = "alpha", ax: Axes | None = None) -> Axes:
    """Draw a metric over the steps: the median over the counted layers, with a band from minimum to maximum.

    Args:
        history: of a run.
        metric: a numeric column of LayerReport, or a key of ``Report.summary()``.
        ax: axes to draw into; None for a new figure.

    Raises:
        ValueError: the history is empty, or the metric is neither.
    """
    steps = _steps(history)
    if metric in history[-1].summary() and metric not in COLUMNS:
        ax = new_axes(ax)
        ax.plot(steps, np.array(history.series(metric), dtype=float), color=BLUISH_GREEN, marker="o", markersize=3)
    else:
        values = _values(history, metric, counted=True)
        ax = new_axes(ax)
        seen = np.isfinite(values).any(axis=0)
        at, values = steps[seen], values[:, seen]
        low, middle, high = np.nanmin(values, axis=0), np.nanmedian(values, axis=0), np.nanmax(values, axis=0)
        ax.fill_between(at, low, high, color=BLUISH_GREEN, alpha=0.2, label="smallest to largest")
        ax.plot(at, middle, color=BLUISH_GREEN, marker="o", markersize=3, label=f"median of {len(values)} layers")
        ax.legend(fontsize="small", framealpha=0.7)
    ax.set(xlabel="optimizer steps", ylabel=label_of(metric), title=f"{metric} during training")
    return ax


def render(
    draw: Callable[[Axes], object],
    *,
    kind: Literal["png", "svg"] = "png",
    size: tuple[float, float] = SIZE,
    dpi: int = 100,
) -> bytes:
    """Render a figure as the bytes of a file; the result is deterministic.

    Args:
        draw: draws into the given axes.
        kind: format of the file.
        size: width and height in inches.
        dpi: dots per inch of a PNG.

    Example:
        >>> render(lambda ax: ax.plot([1, 2]))[1:4]
        b'PNG'
    """
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    file = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with matplotlib.rc_context({"svg.hashsalt": "ww_callbacks", "svg.fonttype": "none"}):
        figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    return file.getvalue()


def esd_title(layer: LayerReport) -> str:
    """A layer in one line: name, alpha with interval, number of traps, warning."""
    parts = [plain(layer.name)]
    if layer.alpha is not None:
        low, high = (f"{value:.2f}" if value is not None else "?" for value in (layer.alpha_low, layer.alpha_high))
        parts.append(f"alpha {layer.alpha:.2f} ({low} to {high})")
    if layer.num_traps:
        kind = f" ({layer.trap_kind})" if layer.trap_kind is not None else ""
        parts.append(f"{layer.num_traps} trap" + "s" * (layer.num_traps > 1) + kind)
    return "  ".join([*parts, *filter(None, [layer.warning])])


def plain(name: str, longest: int = _MAX_NAME) -> str:
    r"""A name that acts on nothing, with dollars escaped too, which would start a formula in matplotlib.

    Long names are cut at the front. One that begins with an underscore, which leaves a line out of a legend, gets a
    space before it.

    Example:
        >>> plain("a$b"), plain("encoder.layers.11.attention.query", 12)
        ('a\\$b', '…ntion.query')
    """
    text = escaped(name[-longest - 1 :])
    short = text if len(text) <= longest else "…" + text[1 - longest :]
    return (" " * short.startswith("_") + short).replace("$", r"\$")


def new_axes(ax: Axes | None) -> Axes:
    """The given axes, or those of a new figure."""
    if ax is not None:
        return ax
    if "matplotlib.pyplot" in sys.modules or "ipykernel" in sys.modules:
        from matplotlib import pyplot

        return pyplot.subplots(figsize=SIZE, layout="constrained")[1]
    return Figure(figsize=SIZE, layout="constrained").subplots()


def _draw_fit(ax: Axes, layer: LayerReport, edges: Floats) -> None:
    """Draw the counts expected from the fit: its share of the tail in each bin, by the midpoint rule in log10 λ."""
    if layer.alpha is None or layer.xmin is None or layer.xmax is None or not layer.num_pl_spikes:
        return
    x = np.logspace(math.log10(layer.xmin), math.log10(layer.xmax), 100)
    shape = (x / layer.xmin) ** -layer.alpha * np.exp(-(layer.Lambda or 0.0) * (x - layer.xmin))
    if layer.Lambda is None:
        area = layer.xmin / (layer.alpha - 1)
    else:
        area = float(np.sum((shape[1:] + shape[:-1]) * np.diff(x)) / 2)
    width = math.log(edges[1] / edges[0])
    name = "power-law fit" if layer.Lambda is None else "truncated power-law fit"
    ax.plot(x, layer.num_pl_spikes * shape * x * width / area, color=BLACK, linestyle=":", linewidth=2, label=name)


def _distance(low: float | None, high: float | None) -> float:
    return max(high - low, 0.0) if low is not None and high is not None else 0.0


def _mark_words(line: Callable[..., object]) -> None:
    """Draw the limits of the warnings over-trained (2) and under-trained (6)."""
    for limit in (2.0, 6.0):
        line(limit, color=GREY, linestyle=":", linewidth=1)


def _label_layers(
    set_ticks: Callable[..., object], names: Sequence[str], offset: float = 0.0, rotation: int = 0
) -> None:
    every = -(-len(names) // _MAX_TICKS) or 1
    at = range(0, len(names), every)
    set_ticks([i + offset for i in at], [plain(names[i]) for i in at], fontsize="x-small", rotation=rotation)


def _steps(history: History) -> Floats:
    if not len(history):
        raise ValueError("history: it has no reports, so there is nothing to draw")
    return np.array([i if step is None else step for i, step in enumerate(history.steps)], dtype=float)


def _between(steps: Floats) -> Floats:
    """Edges of cells that start at the steps; the last cell is as wide as the one before."""
    return np.append(steps, steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1.0))


def _values(history: History, metric: str, *, counted: bool = False) -> Floats:
    """The metric, shape (layers of the latest report, reports); NaN for missing values."""
    _steps(history)
    names = [layer.name for layer in history[-1].layers if layer.counted or not counted]
    try:
        rows = [{layer.name: getattr(layer, metric) for layer in report.layers} for report in history]
        return np.array([[row.get(name) for row in rows] for name in names], dtype=float)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"metric: expected a numeric column such as 'alpha', got {metric!r}") from error
