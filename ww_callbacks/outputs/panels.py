"""Figures, a table and histograms of the spectra for one snapshot, in addition to its scalars."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from ww_callbacks.outputs.layer_map import MapColumn, map_rows, mark_of
from ww_callbacks.printable import shown_name
from ww_callbacks.report import Finding, Histogram, LayerReport, Report, in_words, worst_first
from ww_callbacks.report.keys import AGGREGATES, PREFIX, layer_key, with_prefix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Value = TypeVar("Value")

MAX_TABLE_LAYERS = 50
"""Maximal number of layers in the table, worst first."""
MAX_CHOSEN = 8
"""Maximal number of chosen layers whose spectrum is drawn, in addition to the worst layer."""
FIRST = 16
"""Number of reports that are all shown; later ones are shown ever less often, about eight per doubling of the run."""

MIN_GROUPED = 3
"""Smallest number of layers with equal notes that the text names together."""

_FLOW_COLUMNS = ("name", "kind", "role", "status", "alpha", "alpha_low", "alpha_high", "reliable", "rand_alpha")


@dataclass(frozen=True, slots=True)
class Panels:
    """Figures, texts and histograms of one report.

    Attributes:
        step: of the report.
        wall_time: time of the copy of the weights, in seconds since the epoch.
        images: tag → PNG.
        texts: tag → Markdown.
        histograms: tag → counts over log10 λ. Texts and histograms may be made when they are first used.
    """

    step: int
    wall_time: float
    images: Mapping[str, bytes] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)

    def with_prefix(self, prefix: str) -> Panels:
        """The same panels under tags with another prefix than ``ww``."""
        if prefix == PREFIX:
            return self
        texts, histograms = self.texts, self.histograms
        return replace(
            self,
            images=with_prefix(self.images, prefix),
            texts=Later(lambda: with_prefix(texts, prefix)),
            histograms=Later(lambda: with_prefix(histograms, prefix)),
        )


def is_shown(number: int) -> bool:
    """Whether the report with this number, counted from 1, is shown.

    Example:
        >>> [number for number in range(1, 41) if is_shown(number)][14:]
        [15, 16, 18, 20, 22, 24, 26, 28, 30, 32, 36, 40]
    """
    every = 1 << max((number // (FIRST // 2)).bit_length() - 1, 0)
    return number % every == 0


class Later(Mapping[str, Value]):
    """A mapping that is made when it is first used, such as in the thread that writes it.

    Args:
        make: makes it.

    Example:
        >>> dict(Later(lambda: {"a": 1}))
        {'a': 1}
    """

    def __init__(self, make: Callable[[], Mapping[str, Value]]) -> None:
        self._make = make

    @cached_property
    def _made(self) -> Mapping[str, Value]:
        return self._make()

    def __getitem__(self, key: str) -> Value:
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def written_panels(report: Report, names: frozenset[str], wall_time: float) -> Panels:
    """The panels that need no drawing: the table, and the histograms of the layers in ``names``."""
    return Panels(
        report.step or 0,
        wall_time,
        texts=Later(lambda: {f"{AGGREGATES}layers": layer_text(report)}),
        histograms=Later(lambda: _histograms(report, names)),
    )


def _histograms(report: Report, names: frozenset[str]) -> dict[str, Histogram]:
    return {
        layer_key("log10_eigenvalues", index, layer.name): layer.histogram
        for index, layer in enumerate(report.layers)
        if layer.name in names and layer.histogram is not None and layer.step == report.step
    }


def finding_panels(findings: Sequence[Finding], step: int | None, wall_time: float) -> Panels:
    """The findings that are raised or withdrawn at a report, as a Markdown list."""
    return Panels(step or 0, wall_time, texts={f"{AGGREGATES}findings": finding_text(findings)})


def finding_text(findings: Sequence[Finding]) -> str:
    """Findings as a Markdown list."""
    return "\n".join(
        f"- {'**Alarm:** ' if each.is_alarm and each.until is None else ''}{_escaped(str(each))}" for each in findings
    )


def layer_text(report: Report) -> str:
    r"""The layers as a Markdown table, worst first, with the findings as sentences.

    Layers of which the same is to be said are named together above the table, and not in it.

    Example:
        >>> print(layer_text(Report((LayerReport(name="a|b", kind="Linear", alpha=2.5, warning="no tail"),))))
        | layer | alpha | 95 % interval | shuffled | traps | findings |
        |---|---|---|---|---|---|
        | a\|b | 2.50 | - | - | - | no tail: random signs could give this spectrum, so alpha is noise |
    """
    layers = [layer for layer in worst_first(report.layers) if layer.status == "failed" or layer.M is not None]
    layers = layers or [layer for layer in report.layers if layer.alpha is not None]
    notes = [in_words(layer) for layer in layers]
    noted: dict[str, list[LayerReport]] = {}
    for layer, note in zip(layers, notes, strict=True):
        noted.setdefault(note, []).append(layer)
    grouped = {note: each for note, each in noted.items() if note and len(each) >= MIN_GROUPED}
    lines = [f"- {_group_text(note, each)}" for note, each in grouped.items()]
    rows = [layer for layer, note in zip(layers, notes, strict=True) if note not in grouped]
    if rows:
        lines += [""] * bool(lines)
        lines += ["| layer | alpha | 95 % interval | shuffled | traps | findings |", "|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(_escaped, _cells(layer)))} |" for layer in rows[:MAX_TABLE_LAYERS]]
    if len(rows) > MAX_TABLE_LAYERS:
        lines += ["", f"{len(rows) - MAX_TABLE_LAYERS} more layers are not shown."]
    return "\n".join(lines)


def picture_task(report: Report, chosen: Sequence[str], columns: Sequence[MapColumn]) -> dict[str, Any]:
    """The input of the figures of a report, as plain values for a worker process.

    Args:
        report: the latest one, with histograms.
        chosen: names of the layers whose spectrum is drawn; at most ``MAX_CHOSEN`` of them are used.
        columns: of the map of alpha.
    """
    spectra = {}
    worst = worst_layer(report)
    if worst is not None:
        spectra[f"{AGGREGATES}worst_spectrum"] = worst.to_dict()
    for index, layer in enumerate(report.layers):
        if layer.name in chosen[:MAX_CHOSEN] and layer.histogram is not None:
            spectra[layer_key("spectrum", index, layer.name)] = layer.to_dict()
    rows = map_rows(report)
    return {
        "spectra": spectra,
        "flow": {name: report.column(name) for name in _FLOW_COLUMNS},
        "map": {
            "steps": [column.step for column in columns],
            "names": list(rows.values()),
            "values": [[column.alphas[row] for column in columns] for row in rows],
            "marks": ["".join(column.marks[row] for column in columns) for row in rows],
        },
    }


def worst_layer(report: Report) -> LayerReport | None:
    """The worst layer whose spectrum can be drawn: one with traps or a reliable tail; without either, alpha is noise.

    Example:
        >>> worst_layer(Report((LayerReport(name="fc", kind="Linear", alpha=9.0, reliable=False),))) is None
        True
    """
    layers = (layer for layer in worst_first(report.layers) if layer.histogram is not None)
    return next((layer for layer in layers if layer.is_trapped or mark_of(layer) == "r"), None)


def draw(task: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of a task from :func:`picture_task`.

    Returns:
        Tag → PNG in base 64.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from ww_callbacks.outputs import figures

    rows = zip(*task["flow"].values(), strict=True)
    report = Report(tuple(LayerReport(**dict(zip(task["flow"], row, strict=True))) for row in rows))
    drawings: dict[str, Callable[[Axes], object]] = {
        tag: partial(figures.draw_esd, LayerReport.from_dict(values)) for tag, values in task["spectra"].items()
    }
    if any(layer.is_fitted for layer in report.layers):
        drawings[f"{AGGREGATES}correlation_flow"] = partial(figures.draw_correlation_flow, report)
        drawings[f"{AGGREGATES}alpha_histogram"] = partial(figures.draw_alpha_histogram, report)
        drawings[f"{AGGREGATES}alpha_map"] = lambda ax: figures.draw_map(**task["map"], ax=ax)
    card = partial(figures.render, size=figures.CARD_SIZE, dpi=figures.CARD_DPI)
    return {tag: base64.b64encode(_smaller(card(each))).decode() for tag, each in drawings.items()}


def _smaller(png: bytes) -> bytes:
    """The same image with 64 colours, a third of the size; Pillow is a dependency of matplotlib."""
    from PIL import Image

    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()


def _group_text(note: str, layers: Sequence[LayerReport]) -> str:
    """One sentence about layers with equal notes."""
    names = ", ".join(shown_name(layer.name) for layer in layers[:MIN_GROUPED])
    more = f" and {len(layers) - MIN_GROUPED} more" if len(layers) > MIN_GROUPED else ""
    return f"{len(layers)} layers: {_escaped(f'{note}: {names}{more}')}"


def _cells(layer: LayerReport) -> tuple[str, ...]:
    is_noise = mark_of(layer) == "p"
    interval = "-" if layer.alpha_low is None or is_noise else f"{layer.alpha_low:.2f} to {layer.alpha_high:.2f}"
    alpha, shuffled = ("-" if value is None else f"{value:.2f}" for value in (layer.alpha, layer.rand_alpha))
    traps = "-" if layer.num_traps is None else str(layer.num_traps)
    return shown_name(layer.name), "not reliable" if is_noise else alpha, interval, shuffled, traps, in_words(layer)


def _escaped(text: str) -> str:
    """Text with the special characters of Markdown escaped."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\`*_#[]|" else character for character in text)
