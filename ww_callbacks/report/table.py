"""A report as a text table for terminals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ww_callbacks.printable import columns_of, padded, shown_name, shown_text
from ww_callbacks.report.experts import Experts, summarise_experts
from ww_callbacks.report.layer import SCHEMA

Row = Mapping[str, Any]
"""The columns of one layer, as returned by ``LayerReport.to_dict``."""

LEFT = ("layer", "kind", "model", "metric", "")
"""Text columns; all others are numeric."""


def render_table(
    rows: Sequence[Row],
    summary: Mapping[str, float],
    step: int | None,
    show: Callable[[Sequence[Sequence[str]]], str] | None = None,
) -> str:
    """The fitted layers as a table, then the other layers with their reasons, then the means.

    Args:
        rows: one mapping of columns per layer, as returned by ``Report.to_dicts``.
        summary: as returned by ``Report.summary``.
        step: number of finished optimizer steps; None for a finished model.
        show: turns the cells of the table into text; None for :func:`align`.

    Example:
        >>> print(render_table([], {}, None))
        no layers
    """
    if not rows:
        return "no layers"
    table = layer_table(rows)
    parts = [] if step is None else [f"step {step}"]
    if len(table) > 1:
        parts.append((show or align)(table))
    return "\n".join([*parts, *notes(rows, summary)])


def layer_table(rows: Sequence[Row]) -> list[list[str]]:
    """The fitted layers and the adapters as cells, header first, with columns about changes if a layer has them.

    Experts are summarised in one line for each block, with the medians of the numbers and with the range of alpha in
    place of its interval; odd ones follow it.

    Example:
        >>> layer_table([])[0][:4]
        ['layer', 'kind', 'N x M', 'alpha']
    """
    columns = dict(_COLUMNS)
    for title, column in _CHANGES.items():
        if column == "update_norm" and "distance" in columns:
            continue  # it says nearly the same
        if any(row.get(column) is not None for row in rows):
            columns[title] = _signed(column)
    columns[""] = lambda row: str(row["warning"])
    shown = _with_blocks([row for row in rows if is_shown(row)])
    return [list(columns), *([cell(row) for cell in columns.values()] for row in shown)]


def _with_blocks(rows: Sequence[Row]) -> list[Row]:
    """The rows, with those of the experts of a block replaced by one of their medians and by those that are odd."""
    blocks = {layer: each for each in _blocks(rows) for layer in each.layers}
    by_name = {row["name"]: row for row in rows}
    result: list[Row] = []
    for row in rows:
        block = blocks.get(row["name"])
        if block is None:
            result.append(row)
        elif row["name"] == block.layers[0]:
            result.append(_medians(block, [by_name[name] for name in block.layers]))
            result += [by_name[name] for name in block.odd]
    return result


def _blocks(rows: Sequence[Row]) -> tuple[Experts, ...]:
    return summarise_experts((row["name"], row["alpha"]) for row in rows)


def _medians(block: Experts, rows: Sequence[Row]) -> Row:
    """One row for a block. Texts are shown where all experts have the same."""
    result: dict[str, Any] = {}
    for column, value in rows[0].items():
        values = [row[column] for row in rows if row.get(column) is not None]
        if column in SCHEMA and SCHEMA[column].kind in ("number", "count"):
            result[column] = statistics.median(values) if values else None
        else:
            result[column] = value if all(each == value for each in values) else ""
    shape = {column: int(result[column]) for column in ("N", "M", "rf", "num_pl_spikes", "num_evals") if result[column]}
    name = f"{block.name} ({len(rows)}, min to max)"
    return result | shape | {"name": name, "alpha_low": block.alpha_min, "alpha_high": block.alpha_max}


def is_shown(row: Row) -> bool:
    """Whether a layer is in the table: it has a fit, or it is an adapter with a spectrum."""
    return row["alpha"] is not None or (row["role"] == "adapter" and row["norm"] is not None)


def notes(rows: Sequence[Row], summary: Mapping[str, float]) -> list[str]:
    """Lines below the table: layers without a fit, changes from the baseline, means."""
    lines = _without_fit([row for row in rows if not is_shown(row)])
    lines += [f"{', '.join(names)}: {shown_text(change)}" for change, names in _by(rows, "change").items() if change]
    lines += [_against(rows)] if any("distance" in row or "delta_alpha" in row for row in rows) else []
    lines += _ranks(rows)
    return lines + ([_means(rows, summary)] if "alpha" in summary else [])


def align(lines: Sequence[Sequence[str]]) -> str:
    """Cells as text, with numbers aligned to the right; the first line is the header."""
    widths = [max(columns_of(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            padded(cell, width) if title in LEFT else cell.rjust(width)
            for title, cell, width in zip(lines[0], line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.2e}"


def _digits(column: str, digits: int) -> Callable[[Row], str]:
    return lambda row: _number(row[column], digits)


def _signed(column: str) -> Callable[[Row], str]:
    """A change with its sign, a norm, rank or count without."""
    if not column.startswith("delta"):
        return lambda row: _number(row.get(column), 0 if SCHEMA[column].kind == "count" else 3)
    return lambda row: f"{row[column]:+.2f}" if row.get(column) is not None else "-"


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "layer": lambda row: shown_name(row["name"]),
    "kind": lambda row: shown_name(row["kind"]),
    "N x M": lambda row: f"{row['N']} x {row['M']}" + (f" ({row['rf']})" if row["rf"] > 1 else ""),
    "alpha": _digits("alpha", 2),
    "95 % interval": lambda row: (
        "-" if row["alpha"] is None else f"{_number(row['alpha_low'], 2)} to {_number(row['alpha_high'], 2)}"
    ),
    "shuffled": _digits("rand_alpha", 2),
    "D": _digits("D", 3),
    "tail": lambda row: "-" if row["alpha"] is None else f"{row['num_pl_spikes']}/{row['num_evals']}",
    "log λmax": _digits("log_spectral_norm", 2),
    "stable rank": _digits("stable_rank", 1),
    "traps": lambda row: _number(row["num_traps"], 0) + (f" ({row['trap_kind']})" if row["num_traps"] else ""),
}
_CHANGES = {
    "Δalpha": "delta_alpha",
    "Δlog λmax": "delta_log_lambda_max",
    "distance": "distance",
    "update norm": "update_norm",
    "update rank": "update_rank",
    "intruders": "intruders",
    "forgetting": "forgetting",
    "learned norm": "learned_norm",
    "learned rank": "learned_rank",
    "LoRA rank": "lora_rank",
    "used": "lora_used",
}


def _without_fit(rows: Sequence[Row]) -> list[str]:
    return [
        f"{status}: {', '.join(names)} ({shown_text(reason)})"
        for (status, reason), names in _by(rows, "status", "reason").items()
    ]


def _by(rows: Sequence[Row], *columns: str) -> dict[Any, list[str]]:
    """Names of the layers grouped by the values of columns, in order of first appearance."""
    names: dict[Any, list[str]] = {}
    for row in rows:
        found = tuple(row.get(column, "") for column in columns)
        names.setdefault(found if len(found) > 1 else found[0], []).append(row["name"])
    return {found: _shortened(each) for found, each in names.items()}


def _shortened(names: Sequence[str]) -> list[str]:
    """The names, with one for all experts of a block."""
    blocks = {layer: each for each in summarise_experts((name, None) for name in names) for layer in each.layers}
    shown = (
        f"{shown_name(blocks[name].name)} ({len(blocks[name].layers)})" if name in blocks else shown_name(name)
        for name in names
    )
    return list(dict.fromkeys(shown))


def _against(rows: Sequence[Row]) -> str:
    """Changes over the whole model."""
    parts = []
    for column, text, average in (
        ("delta_alpha", "median change of alpha {:+.2f}", statistics.median),
        ("distance", "median distance {:.3g}", statistics.median),
        ("forgetting", "mean forgetting {:.3g}", statistics.fmean),
    ):
        values = [row[column] for row in rows if row.get(column) is not None]
        if values:
            parts.append(f"{text.format(average(values))} over {_layers(values)}")
    return "against the baseline: " + ", ".join(parts)


def _ranks(rows: Sequence[Row]) -> list[str]:
    """The ranks of low-rank adapters, paid for and used, one line for each rank."""
    used: dict[int, list[int]] = {}
    for row in rows:
        if row.get("lora_used") is not None:
            used.setdefault(row["lora_rank"], []).append(row["lora_used"])
    return [
        f"low-rank adapters: rank {rank} is paid for, {_span(counts)} are used ({_layers(counts)})"
        for rank, counts in sorted(used.items())
    ]


def _layers(values: Sequence[object]) -> str:
    return "1 layer" if len(values) == 1 else f"{len(values)} layers"


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low} directions" if low == high else f"{low} to {high} directions (median {statistics.median(counts):g})"


def _means(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, float]) -> str:
    counted = sum(bool(row["counted"]) for row in rows)
    return (
        f"mean alpha {summary['alpha']:.2f} ({summary['alpha_min']:.2f} to {summary['alpha_max']:.2f}) "
        f"over {counted} of {len(rows)} layers, {summary['num_reliable']:.0f} of them with a reliable tail"
    )
