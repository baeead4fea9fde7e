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
import operator
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ww_callbacks.outputs.layer_map import has_row, map_spans, mark_of
from ww_callbacks.outputs.ticks import layer_ticks
from ww_callbacks.printable import escaped, quoted, shown_text
from ww_callbacks.report.layer import COLUMNS, label_of

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError("drawing needs matplotlib: pip install ww_callbacks[plot]") from error

if TYPE_CHECKING:
    from ww_callbacks.report import History, LayerReport, Report
    from ww_callbacks.spectra.types import Floats

BLUISH_GREEN, VERMILION, ORANGE, BLUE, GREY, BLACK = "#009E73", "#D55E00", "#E69F00", "#0072B2", "0.45", "black"
PALE_GREEN = "#A6DCCD"
SIZE = (6.4, 4.0)
"""Size of a new figure in inches."""
CARD_SIZE, CARD_DPI = (4.0, 3.0), 128
"""Size in inches and dots per inch of a figure that is legible where TensorBoard shows it, about 360 pixels wide."""

_GREYS = ListedColormap(["0.6"])
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUISH_GREEN, "linestyle": "-", "marker": "o"},
    {"color": VERMILION, "linestyle": "--", "marker": "s"},
    {"color": BLUE, "linestyle": "-.", "marker": "^"},
    {"color": ORANGE, "linestyle": ":", "marker": "D"},
    {"color": BLACK, "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
)
_MAX_NAME = 28
_LINE = 38
"""Maximal number of characters of a line above or below a figure."""
_MOST_ROWS = 8
"""Maximal number of labels on an axis of layers from top to bottom; from left to right the characters count."""
_LONGEST_LABEL = 12
_HIGHEST_ALPHA = 8.0
_NO_TAIL = "no reliable tail"


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
    ax.set(xlabel="eigenvalue λ of WᵀW", ylabel="eigenvalues per bin")
    _finish(ax, esd_title(layer))
    return ax


def draw_correlation_flow(report: Report, ax: Axes | None = None) -> Axes:
    """Draw alpha as a function of depth, with 95 % intervals, and alpha of the shuffled weights.

    Well-trained networks show a small and nearly constant alpha. Layers without a reliable tail are hollow, without an
    interval and outside the line: their alpha means nothing.

    Source: Martin, Peng and Mahoney, *Predicting trends in the quality of state-of-the-art neural networks* (2021).

    Args:
        report: of a model; layers without a fit are left out.
        ax: axes to draw into; None for a new figure.
    """
    ax = new_axes(ax)
    fitted = [layer for layer in report.layers if layer.is_fitted]
    small: dict[str, Any] = {"markersize": 4 if len(fitted) <= 40 else 2.5}
    shuffled = [(depth, layer.rand_alpha) for depth, layer in enumerate(fitted) if layer.rand_alpha is not None]
    if shuffled:
        ax.plot(*zip(*shuffled, strict=True), color=VERMILION, marker="x", linestyle="none", label="shuffled", **small)
    pale = [(depth, layer.alpha) for depth, layer in enumerate(fitted) if mark_of(layer) == "p"]
    if pale:
        hollow = small | {"marker": "o", "fillstyle": "none", "linestyle": "none"}
        ax.plot(*zip(*pale, strict=True), color=PALE_GREEN, label=_NO_TAIL, **hollow)
    sure = {depth: layer for depth, layer in enumerate(fitted) if mark_of(layer) == "r"}
    if sure:
        alpha = np.array([layer.alpha for layer in sure.values()], dtype=float)
        reach = [
            [_distance(layer.alpha_low, layer.alpha) for layer in sure.values()],
            [_distance(layer.alpha, layer.alpha_high) for layer in sure.values()],
        ]
        style = small | {"color": BLUISH_GREEN, "marker": "o", "linewidth": 1.4, "elinewidth": 0.8}
        ax.errorbar(list(sure), alpha, yerr=reach, label="alpha, 95 % interval", **style)
    _mark_words(ax.axhline)
    ax.set(xlabel="depth (fitted layers)", ylabel=label_of("alpha"))
    _label_across(ax, [layer.name for layer in fitted])
    _finish(ax, "Correlation flow")
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
    ax.set(xlabel="relative depth (first to last fitted layer)", ylabel=label_of("alpha"))
    _finish(ax, "Correlation flow")
    return ax


def draw_alpha_histogram(report: Report, ax: Axes | None = None) -> Axes:
    """Draw the distribution of alpha over the layers and over their shuffled controls.

    Layers without a reliable tail, whose alpha means nothing, are the pale part of the bars.

    Args:
        report: of a model; layers without a fit are left out.
        ax: axes to draw into; None for a new figure.
    """
    ax = new_axes(ax)
    fitted = [(mark_of(layer), layer.alpha) for layer in report.layers if layer.is_fitted and layer.alpha is not None]
    sure, pale = ([alpha for mark, alpha in fitted if mark == wanted] for wanted in "rp")
    shuffled = [layer.rand_alpha for layer in report.layers if layer.rand_alpha is not None]
    every = [*sure, *pale, *shuffled]
    low, high = (math.floor(min(every)), math.ceil(max(every))) if every else (0, 1)
    edges = np.linspace(low, high, min(2 * max(high - low, 1), 40) + 1).tolist()
    parts = [
        (sure, BLUISH_GREEN, f"layers ({len(sure)})"),
        (pale, PALE_GREEN, f"{_NO_TAIL} ({len(pale)})"),
    ]
    shown = [part for part in parts if part[0]]
    if shown:
        alphas, colours, labels = map(list, zip(*shown, strict=True))
        ax.hist(alphas, edges, stacked=True, color=colours, label=labels)
    if shuffled:
        ax.hist(shuffled, edges, color=VERMILION, histtype="step", linestyle="--", linewidth=1.4, label="shuffled")
    _mark_words(ax.axvline)
    ax.set(xlabel=label_of("alpha"), ylabel="number of layers")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    _finish(ax, "Alpha of the layers")
    return ax


def draw_layer_map(history: History, metric: str = "alpha", ax: Axes | None = None) -> Axes:
    """Draw one metric of all layers at all steps as a map: layers from top to bottom, steps from left to right.

    The map ends at the last step, and gaps between the steps are white. Layers without a matrix take no row. Alpha is
    pale where there is no reliable tail, because it means nothing there. A failed layer is grey. The colours of alpha
    run from 1 to 8 in every map, so that maps can be compared.

    Args:
        history: of a run.
        metric: a numeric column of LayerReport.
        ax: axes to draw into; None for a new figure.

    Raises:
        ValueError: the history is empty, or the metric is not a numeric column.
    """
    steps = _steps(history)
    names = [layer.name for layer in history[-1].layers if has_row(layer)]
    marks = _by_name(history, names, mark_of, "-")
    if not metric.startswith("alpha"):
        marks = [["r" if mark == "p" else mark for mark in row] for row in marks]
    return draw_map(steps, names, _values(history, metric, names), marks, metric, ax)


def draw_map(
    steps: Sequence[float] | Floats,
    names: Sequence[str],
    values: Sequence[Sequence[float | None]] | Floats,
    marks: Sequence[Sequence[str]],
    metric: str = "alpha",
    ax: Axes | None = None,
) -> Axes:
    """Draw the map of :func:`draw_layer_map` from plain values.

    Args:
        steps: shape (n,), at least one, ascending.
        names: of the layers.
        values: shape (layers, n); None or NaN for missing values.
        marks: shape (layers, n): "p" for a value that means nothing, "f" for a failed layer.
        metric: name of the values.
        ax: axes to draw into; None for a new figure.
    """
    ax = new_axes(ax)
    columns, starts, ends = zip(*map_spans([float(step) for step in steps]), strict=True)
    at = [0 if column is None else column for column in columns]
    is_gap = np.array([column is None for column in columns])
    cells, kinds = np.asarray(values, dtype=float)[:, at], np.array([list(row) for row in marks])[:, at]
    is_known, is_pale, is_failed = np.isfinite(cells) & (kinds != "f") & ~is_gap, kinds == "p", (kinds == "f") & ~is_gap
    edges = np.array([*starts, ends[-1]]), np.arange(len(names) + 1)
    is_alpha = metric in ("alpha", "rand_alpha")
    colours, limits = matplotlib.colormaps["cividis"], (1.0, _HIGHEST_ALPHA) if is_alpha else _limits(cells)

    def paint(shown: Floats, where: Any, colormap: Any) -> Any:
        seen = np.ma.array(shown, mask=~where)
        return ax.pcolormesh(*edges, seen, cmap=colormap, vmin=limits[0], vmax=limits[1])

    mesh = paint(cells, is_known & ~is_pale, colours)
    paint(cells, is_known & is_pale, _paler(colours))
    paint(np.full_like(cells, limits[0]), is_failed, _GREYS)
    bar = ax.figure.colorbar(mesh, ax=ax, extend="max" if is_alpha else "neither")
    bar.set_label(label_of(metric))
    bar.locator = MaxNLocator(4)
    legend = {
        f"pale: {_NO_TAIL}": (is_known & is_pale).any(),
        "grey: failed": is_failed.any(),
        "white: no result": not (is_known | is_failed).all(),
    }
    _label_down(ax, names)
    ax.set(xlabel=_below("optimizer steps", legend), xlim=(starts[0], ends[-1]), ylim=(len(names), 0))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    _finish(ax, f"{metric} of each layer")
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
        values = _values(history, metric, [layer.name for layer in history[-1].layers if layer.counted])
        ax = new_axes(ax)
        seen = np.isfinite(values).any(axis=0)
        at, values = steps[seen], values[:, seen]
        low, middle, high = np.nanmin(values, axis=0), np.nanmedian(values, axis=0), np.nanmax(values, axis=0)
        ax.fill_between(at, low, high, color=BLUISH_GREEN, alpha=0.2, label="smallest to largest")
        ax.plot(at, middle, color=BLUISH_GREEN, marker="o", markersize=3, label=f"median of {len(values)} layers")
    ax.set(xlabel="optimizer steps", ylabel=label_of(metric))
    _finish(ax, f"{metric} during training")
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
    """A layer in short lines: name, alpha with interval if there is a reliable tail, number of traps, warning."""
    parts = []
    if mark_of(layer) == "r":
        low, high = (f"{value:.2f}" if value is not None else "?" for value in (layer.alpha_low, layer.alpha_high))
        parts.append(f"alpha {layer.alpha:.2f} ({low} to {high})")
    if layer.num_traps:
        kind = f" ({layer.trap_kind})" if layer.trap_kind is not None else ""
        parts.append(f"{layer.num_traps} trap" + "s" * (layer.num_traps > 1) + kind)
    says = layer.warning or (_NO_TAIL if mark_of(layer) == "p" else "")
    return "\n".join([plain(layer.name), *textwrap.wrap("  ".join([*parts, says]), _LINE)])


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
    colour, name = (BLACK, name) if mark_of(layer) == "r" else ("0.6", f"{name}, no tail")
    ax.plot(x, layer.num_pl_spikes * shape * x * width / area, color=colour, linestyle=":", linewidth=2, label=name)


def _distance(low: float | None, high: float | None) -> float:
    return max(high - low, 0.0) if low is not None and high is not None else 0.0


def _mark_words(line: Callable[..., object]) -> None:
    """Draw the limits of the warnings over-trained (2) and under-trained (6)."""
    for limit in (2.0, 6.0):
        line(limit, color=GREY, linestyle=":", linewidth=1)


def _finish(ax: Axes, title: str) -> None:
    """Set a title, and a legend if there is something to explain."""
    ax.set_title(title, fontsize="medium")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(framealpha=0.7)


def _below(label: str, legend: Mapping[str, bool]) -> str:
    """The label of an axis, and below it what is seen of a legend, in short lines that end between entries."""
    seen = ", ".join(words.replace(" ", "\N{NO-BREAK SPACE}") for words, is_seen in legend.items() if is_seen)
    return "\n".join([label, *textwrap.wrap(seen, _LINE + 4)])


def _label_down(ax: Axes, names: Sequence[str]) -> None:
    """Label the layers from top to bottom, each in the middle of its row."""
    ticks = layer_ticks(names, _MOST_ROWS)
    ax.set_yticks([index + 0.5 for index, _ in ticks], [plain(label, _LONGEST_LABEL) for _, label in ticks])


def _label_across(ax: Axes, names: Sequence[str]) -> None:
    """Label the layers from left to right: as many as fit beside each other."""
    ticks = next(ticks for most in range(_MOST_ROWS, 0, -1) if _fits(ticks := layer_ticks(names, most)) or most == 1)
    ax.set_xticks([index for index, _ in ticks], [plain(label, _LONGEST_LABEL) for _, label in ticks])


def _fits(ticks: Sequence[tuple[int, str]]) -> bool:
    """Whether the labels fit beside each other."""
    return len(ticks) * (2 + max((len(label) for _, label in ticks), default=0)) <= _LINE


def _paler(colours: Any) -> ListedColormap:
    """The same colours, mixed with white."""
    return ListedColormap(0.2 * colours(np.linspace(0, 1, 256)) + 0.8)


def _limits(values: Floats) -> tuple[float, float]:
    """The smallest and the largest value."""
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)


def _steps(history: History) -> Floats:
    if not len(history):
        raise ValueError("history: it has no reports, so there is nothing to draw")
    return np.array([i if step is None else step for i, step in enumerate(history.steps)], dtype=float)


def _values(history: History, metric: str, names: Sequence[str]) -> Floats:
    """The metric, shape (layers, reports); NaN for missing values."""
    _steps(history)
    try:
        return np.array(_by_name(history, names, operator.attrgetter(metric), None), dtype=float)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"metric: expected a numeric column such as 'alpha', got {metric!r}") from error


def _by_name(history: History, names: Sequence[str], of: Callable[[LayerReport], Any], missing: Any) -> list[list[Any]]:
    """What is known of each layer in each report, shape (layers, reports)."""
    rows = [{layer.name: of(layer) for layer in report.layers} for report in history]
    return [[row.get(name, missing) for row in rows] for name in names]
