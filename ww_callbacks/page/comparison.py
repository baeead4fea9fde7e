"""A comparison of models as a page: its verdict in words, the means of the models, and each model as a run."""

from __future__ import annotations

from collections.abc import Mapping

from ww_callbacks.page.known import run_of_report
from ww_callbacks.page.single import page_file
from ww_callbacks.printable import shown_name, shown_text
from ww_callbacks.report import Comparison, LayerReport, Report


def comparison_page(comparison: Comparison, title: str) -> str:
    """The page of a comparison as one HTML file.

    Each model is a run with one report. The first model is the baseline of the others. A report that has been compared
    with it already keeps its columns about the change of the weights; others are compared by their spectra.

    Args:
        comparison: of at least one model.
        title: of the page.
    """
    (first, baseline), *others = comparison.reports.items()
    changed = {name: report if report.baseline is baseline else report.against(baseline) for name, report in others}
    runs = {name: run_of_report(report, name) for name, report in ({first: baseline} | changed).items()}
    changes = [
        {
            "run": name,
            "text": shown_text(_summary(name, report, first, baseline)),
            "layers": _by_weight(report, baseline),
        }
        for name, report in changed.items()
    ]
    said = {
        "base": first,
        "models": comparison.table(),
        "correlations": comparison.correlation_table(),
        "conclusions": comparison.conclusions(),
        "changes": changes,
        "by_weights": any(report.baseline is baseline for _, report in others),
    }
    return page_file(runs, title, comparison=said)


def _summary(name: str, report: Report, first: str, baseline: Report) -> str:
    """How many layers of a model changed from those of the first one."""
    name, first = shown_name(name), shown_name(first)
    now, before = _matrices(report), _matrices(baseline)
    both = [layer for key, layer in now.items() if key in before]
    if not both:
        return f"{name} and {first} have no layer of the same name: only their means can be compared."
    resized = [layer for layer in both if _size(layer) != _size(before[layer.name])]
    changed = len([layer for layer in both if layer.change]) - len(resized)
    rest = {
        "of another size": len(resized),
        f"only in {name}": len(now) - len(both),
        f"only in {first}": len(before) - len(both),
    }
    return "; ".join(
        [
            f"{name} against {first}: {changed or 'none'} of {len(both) - len(resized)} layers changed notably",
            *(f"{number} {words}" for words, number in rest.items() if number),
        ]
    )


def _by_weight(report: Report, baseline: Report) -> list[tuple[int, str]]:
    """Index and words of the layers that are in both and changed notably.

    Layers that failed come first, then collapsed ones, then those with new traps, then by what is forgotten and by the
    change of alpha.
    """
    known = _matrices(baseline)
    changed = [(index, layer) for index, layer in enumerate(report) if layer.change and layer.name in known]
    changed.sort(key=lambda each: _weight(each[1]), reverse=True)
    return [(index, shown_text(layer.change)) for index, layer in changed]


def _weight(layer: LayerReport) -> tuple[bool, bool, bool, float, float]:
    flags = layer.status == "failed", bool(layer.scale_collapse), bool(layer.new_traps)
    return *flags, layer.forgetting or 0.0, abs(layer.delta_alpha or 0.0)


def _matrices(report: Report) -> Mapping[str, LayerReport]:
    return {layer.name: layer for layer in report if layer.M is not None}


def _size(layer: LayerReport) -> tuple[int | None, ...]:
    return layer.N, layer.M, layer.rf
