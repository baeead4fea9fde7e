"""A report as text: a table that fits a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_NUMBERS = ("N x M", "alpha", "95 % interval", "shuffled", "D", "tail", "log λmax", "stable rank", "traps")
_HEAD = ("layer", "kind", *_NUMBERS, "")
_LEFT = {0, 1, len(_HEAD) - 1}


def render_table(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, float], step: int | None) -> str:
    """The fitted layers as a table, the others as a list with their reasons, the means below.

    Args:
        rows: one mapping of columns per layer, as ``Report.to_dicts`` gives them.
        summary: as ``Report.summary`` gives it.
        step: finished optimizer steps, None for a finished model.

    Example:
        >>> print(render_table([], {}, None))
        no layers
    """
    if not rows:
        return "no layers"
    fitted = [_cells(row) for row in rows if row["alpha"] is not None]
    parts = [] if step is None else [f"step {step}"]
    if fitted:
        parts.append(_align([_HEAD, *fitted]))
    parts += _without_fit([row for row in rows if row["alpha"] is None])
    if "alpha" in summary:
        parts.append(_means(rows, summary))
    return "\n".join(parts)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    size = f"{row['N']} x {row['M']}" + (f" ({row['rf']})" if row["rf"] > 1 else "")
    return (
        row["name"],
        row["kind"],
        size,
        _number(row["alpha"], 2),
        f"{_number(row['alpha_low'], 2)} to {_number(row['alpha_high'], 2)}",
        _number(row["rand_alpha"], 2),
        _number(row["D"], 3),
        f"{row['num_pl_spikes']}/{row['num_evals']}",
        _number(row["log_spectral_norm"], 2),
        _number(row["stable_rank"], 1),
        _number(row["num_traps"], 0),
        row["warning"],
    )


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.2e}"


def _align(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in _LEFT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _without_fit(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        by_reason.setdefault((row["status"], row["reason"]), []).append(row["name"])
    return [f"{status}: {', '.join(names)} ({reason})" for (status, reason), names in by_reason.items()]


def _means(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, float]) -> str:
    counted = sum(bool(row["counted"]) for row in rows)
    return (
        f"mean alpha {summary['alpha']:.2f} ({summary['alpha_min']:.2f} to {summary['alpha_max']:.2f}) "
        f"over {counted} of {len(rows)} layers, {summary['num_reliable']:.0f} of them with a reliable tail"
    )
